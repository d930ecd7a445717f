//! The QoS class, as the kubelet encodes it in the pod's cgroup parent.

use super::QosClass;

/// QoS class from a sandbox's cgroup parent: `/kubepods/burstable/podUID`,
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`, the last element of that
/// alone, or `SLICE:PREFIX:NAME`; below a `--cgroup-root` of any depth. `None` when it is not the kubelet's.
#[must_use]
pub fn qos_from_cgroup_parent(parent: &str) -> Option<QosClass> {
    let path = parent.split(':').next().unwrap_or(parent);
    let class = |next: Option<&str>| match next? {
        "burstable" => Some(QosClass::Burstable),
        "besteffort" => Some(QosClass::BestEffort),
        pod if pod.starts_with("pod") => Some(QosClass::Guaranteed),
        _ => None,
    };
    let last = path.rsplit('/').find(|element| !element.is_empty())?;
    if let Some(slice) = last.strip_suffix(".slice") {
        let mut words = slice.split('-').skip_while(|word| *word != "kubepods");
        words.next()?;
        return class(words.next());
    }
    let mut elements = path.split('/').skip_while(|element| *element != "kubepods");
    elements.next()?;
    class(elements.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_of_the_kubelet_is_read() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        for (parent, class) in [
            ("/kubepods/burstable/pod1", Some(Burstable)),
            ("/kubepods/besteffort/pod1", Some(BestEffort)),
            ("/kubepods/pod1-2", Some(Guaranteed)),
            ("/a/b/c/kubepods/burstable/pod1", Some(Burstable)),
            ("kubepods-besteffort-pod1_2.slice", Some(BestEffort)),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice",
                Some(Burstable),
            ),
            ("/kubepods.slice/kubepods-pod1.slice", Some(Guaranteed)),
            (
                "/a.slice/a-kubepods.slice/a-kubepods-burstable.slice/a-kubepods-burstable-pod1.slice",
                Some(Burstable),
            ),
            (
                "kubepods-burstable-pod1.slice:cri-containerd:abc",
                Some(Burstable),
            ),
            ("", None),
            ("/system.slice", None),
            ("/user/burstable", None),
            ("/kubepods", None),
        ] {
            assert_eq!(qos_from_cgroup_parent(parent), class, "{parent}");
        }
    }
}
