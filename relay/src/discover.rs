//! The machine's topology, from hwloc and sysfs.
