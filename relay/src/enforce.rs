//! Writes cpusets, reads them back, repairs drift. The only module that writes under the cgroup mount.
