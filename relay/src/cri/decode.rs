//! Names and shapes of CRI's messages, for those who show them: path and bytes in, JSON out.
//!
//! Never used on the way of a call: what goes on to the runtime is bytes, not what was decoded here.

use super::newer;
use k8s_cri::{v1, v1alpha2};
use prost::Message;
use serde::Serialize;
use serde_json::Value;

/// Which message of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// From the client to the runtime.
    Request,
    /// From the runtime to the client.
    Reply,
}

/// Decodes one message of the call on `path` (e.g. `/runtime.v1.RuntimeService/Version`).
///
/// `body` is the message without gRPC's 5-byte prefix. `None` when the method is not known to this
/// build or the bytes are not such a message. Fields unknown to this build are left out. Field names
/// are those of the .proto files (snake_case), enumerations their numbers.
#[must_use]
pub fn to_json(path: &str, side: Side, body: &[u8]) -> Option<Value> {
    show(path, side, body, Json)
}

/// What can show any message of CRI.
pub trait Show {
    /// What comes of it.
    type Shown;

    /// Shows a message; `None` when it cannot.
    fn show(self, message: &impl Serialize) -> Option<Self::Shown>;
}

/// Decodes one message as [`to_json`] does and has it shown by `how`.
pub fn show<S: Show>(path: &str, side: Side, body: &[u8], how: S) -> Option<S::Shown> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "runtime.v1.RuntimeService" => runtime_v1(method, side, body, how),
        "runtime.v1.ImageService" => image_v1(method, side, body, how),
        "runtime.v1alpha2.RuntimeService" => runtime_v1alpha2(method, side, body, how),
        "runtime.v1alpha2.ImageService" => image_v1alpha2(method, side, body, how),
        _ => None,
    }
}

struct Json;

impl Show for Json {
    type Shown = Value;

    fn show(self, message: &impl Serialize) -> Option<Value> {
        serde_json::to_value(message).ok()
    }
}

/// Whether `path` is a method of CRI that [`to_json`] can decode.
#[must_use]
pub fn is_known(path: &str) -> bool {
    to_json(path, Side::Request, &[]).is_some()
}

/// Every path [`to_json`] knows: all RPCs of CRI v1 and v1alpha2.
#[must_use]
pub fn all_paths() -> Vec<String> {
    let services: [(&str, [&[&str]; 2]); 4] = [
        ("runtime.v1.RuntimeService", [RUNTIME, RUNTIME_LATER]),
        ("runtime.v1.ImageService", [IMAGE, IMAGE_LATER]),
        ("runtime.v1alpha2.RuntimeService", [RUNTIME, &[]]),
        ("runtime.v1alpha2.ImageService", [IMAGE, &[]]),
    ];
    let mut paths = Vec::new();
    for (service, methods) in services {
        let methods = methods.into_iter().flatten();
        paths.extend(methods.map(|method| format!("/{service}/{method}")));
    }
    paths
}

fn decoded<M: Message + Default + Serialize, S: Show>(body: &[u8], how: S) -> Option<S::Shown> {
    how.show(&M::decode(body).ok()?)
}

macro_rules! decode {
    ($method:ident $side:ident $body:ident $how:ident
        $($messages:ident: $($name:literal $request:ident $reply:ident,)*)*) => {
        match ($method, $side) {
            $($(
                ($name, Side::Request) => decoded::<$messages::$request, S>($body, $how),
                ($name, Side::Reply) => decoded::<$messages::$reply, S>($body, $how),
            )*)*
            _ => None,
        }
    };
}

/// The methods of a service: those that both versions have, those that came with v1, and those whose
/// messages are in [`newer`].
macro_rules! service {
    ($both:ident $later:ident $v1:ident $v1alpha2:ident:
        $($name:literal $request:ident $reply:ident,)*
        later: $($later_name:literal $later_request:ident $later_reply:ident,)*
        newer: $($new:literal $new_request:ident $new_reply:ident,)*) => {
        const $both: &[&str] = &[$($name),*];
        const $later: &[&str] = &[$($later_name,)* $($new),*];

        fn $v1<S: Show>(method: &str, side: Side, body: &[u8], how: S) -> Option<S::Shown> {
            decode! {
                method side body how
                v1: $($name $request $reply,)* $($later_name $later_request $later_reply,)*
                newer: $($new $new_request $new_reply,)*
            }
        }

        fn $v1alpha2<S: Show>(method: &str, side: Side, body: &[u8], how: S) -> Option<S::Shown> {
            decode! {
                method side body how
                v1alpha2: $($name $request $reply,)*
            }
        }
    };
}

service! {
    RUNTIME RUNTIME_LATER runtime_v1 runtime_v1alpha2:
    "Version" VersionRequest VersionResponse,
    "RunPodSandbox" RunPodSandboxRequest RunPodSandboxResponse,
    "StopPodSandbox" StopPodSandboxRequest StopPodSandboxResponse,
    "RemovePodSandbox" RemovePodSandboxRequest RemovePodSandboxResponse,
    "PodSandboxStatus" PodSandboxStatusRequest PodSandboxStatusResponse,
    "ListPodSandbox" ListPodSandboxRequest ListPodSandboxResponse,
    "CreateContainer" CreateContainerRequest CreateContainerResponse,
    "StartContainer" StartContainerRequest StartContainerResponse,
    "StopContainer" StopContainerRequest StopContainerResponse,
    "RemoveContainer" RemoveContainerRequest RemoveContainerResponse,
    "ListContainers" ListContainersRequest ListContainersResponse,
    "ContainerStatus" ContainerStatusRequest ContainerStatusResponse,
    "UpdateContainerResources" UpdateContainerResourcesRequest UpdateContainerResourcesResponse,
    "ReopenContainerLog" ReopenContainerLogRequest ReopenContainerLogResponse,
    "ExecSync" ExecSyncRequest ExecSyncResponse,
    "Exec" ExecRequest ExecResponse,
    "Attach" AttachRequest AttachResponse,
    "PortForward" PortForwardRequest PortForwardResponse,
    "ContainerStats" ContainerStatsRequest ContainerStatsResponse,
    "ListContainerStats" ListContainerStatsRequest ListContainerStatsResponse,
    "PodSandboxStats" PodSandboxStatsRequest PodSandboxStatsResponse,
    "ListPodSandboxStats" ListPodSandboxStatsRequest ListPodSandboxStatsResponse,
    "UpdateRuntimeConfig" UpdateRuntimeConfigRequest UpdateRuntimeConfigResponse,
    "Status" StatusRequest StatusResponse,
    later:
    "CheckpointContainer" CheckpointContainerRequest CheckpointContainerResponse,
    "GetContainerEvents" GetEventsRequest ContainerEventResponse,
    "ListMetricDescriptors" ListMetricDescriptorsRequest ListMetricDescriptorsResponse,
    "ListPodSandboxMetrics" ListPodSandboxMetricsRequest ListPodSandboxMetricsResponse,
    "RuntimeConfig" RuntimeConfigRequest RuntimeConfigResponse,
    newer:
    "StreamPodSandboxes" StreamPodSandboxesRequest StreamPodSandboxesResponse,
    "StreamContainers" StreamContainersRequest StreamContainersResponse,
    "StreamContainerStats" StreamContainerStatsRequest StreamContainerStatsResponse,
    "StreamPodSandboxStats" StreamPodSandboxStatsRequest StreamPodSandboxStatsResponse,
    "StreamPodSandboxMetrics" StreamPodSandboxMetricsRequest StreamPodSandboxMetricsResponse,
    "CheckpointPod" CheckpointPodRequest CheckpointPodResponse,
    "RestorePod" RestorePodRequest RestorePodResponse,
    "UpdatePodSandboxResources" UpdatePodSandboxResourcesRequest UpdatePodSandboxResourcesResponse,
}

service! {
    IMAGE IMAGE_LATER image_v1 image_v1alpha2:
    "ListImages" ListImagesRequest ListImagesResponse,
    "ImageStatus" ImageStatusRequest ImageStatusResponse,
    "PullImage" PullImageRequest PullImageResponse,
    "RemoveImage" RemoveImageRequest RemoveImageResponse,
    "ImageFsInfo" ImageFsInfoRequest ImageFsInfoResponse,
    later:
    newer:
    "StreamImages" StreamImagesRequest StreamImagesResponse,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::encoding::{message, string};
    use serde_json::json;

    #[test]
    fn a_create_request_shows_its_fields_by_their_proto_names() {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: "p".into(),
            config: Some(v1::ContainerConfig {
                working_dir: "/w".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let path = "/runtime.v1.RuntimeService/CreateContainer";
        let shown = to_json(path, Side::Request, &request.encode_to_vec()).unwrap();
        assert_eq!(shown["pod_sandbox_id"], "p");
        assert_eq!(shown["config"]["working_dir"], "/w");
    }

    #[test]
    fn every_listed_path_is_known_and_both_eras_are_there() {
        let paths = all_paths();
        assert!(paths.iter().all(|p| is_known(p)));
        assert_eq!(paths.iter().filter(|p| p.contains("v1alpha2")).count(), 29);
        assert_eq!(paths.len(), 72);
    }

    #[test]
    fn lists_in_parts_show_their_items_by_the_name_that_the_proto_has_there() {
        for (method, field) in [
            ("RuntimeService/StreamPodSandboxes", "pod_sandboxes"),
            ("RuntimeService/StreamContainers", "containers"),
            ("RuntimeService/StreamContainerStats", "container_stats"),
            ("RuntimeService/StreamPodSandboxStats", "pod_sandbox_stats"),
            (
                "RuntimeService/StreamPodSandboxMetrics",
                "pod_sandbox_metrics",
            ),
            ("ImageService/StreamImages", "images"),
        ] {
            let one_item = [0x0a, 0];
            let path = format!("/runtime.v1.{method}");
            let shown = to_json(&path, Side::Reply, &one_item).unwrap();
            let fields = shown.as_object().unwrap();
            assert_eq!(fields.keys().collect::<Vec<_>>(), [field], "{method}");
            assert_eq!(fields[field].as_array().unwrap().len(), 1, "{method}");
            assert!(!is_known(&path.replace("v1", "v1alpha2")), "{method}");
        }
        let path = "/runtime.v1.RuntimeService/StreamContainers";
        let filter = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter {
                pod_sandbox_id: "p".into(),
                ..Default::default()
            }),
        };
        let shown = to_json(path, Side::Request, &filter.encode_to_vec()).unwrap();
        assert_eq!(shown["filter"]["pod_sandbox_id"], "p");
    }

    #[test]
    fn pods_are_resized_checkpointed_and_restored_with_all_that_is_said() {
        let shown = |method, side, body: &[u8]| {
            let path = format!("/runtime.v1.RuntimeService/{method}");
            to_json(&path, side, body).unwrap()
        };
        let text = |tag, text: &str, body: &mut Vec<u8>| string::encode(tag, &text.into(), body);
        let resources = |shares| v1::LinuxContainerResources {
            cpu_shares: shares,
            ..Default::default()
        };
        let mut body = Vec::new();
        text(1, "p", &mut body);
        message::encode(2, &resources(2), &mut body);
        message::encode(3, &resources(3), &mut body);
        let resized = shown("UpdatePodSandboxResources", Side::Request, &body);
        assert_eq!(resized["pod_sandbox_id"], "p");
        assert_eq!(resized["overhead"]["cpu_shares"], 2);
        assert_eq!(resized["resources"]["cpu_shares"], 3);

        // An entry of a map is a message of its name and its value.
        let option = [0x0a, 1, b'k', 0x12, 1, b'v'];
        let put_option =
            |body: &mut Vec<u8>| prost::encoding::bytes::encode(4, &option.to_vec(), body);
        let mut body = Vec::new();
        for (tag, value) in [(1, "p"), (2, "/to"), (3, "c"), (3, "d")] {
            text(tag, value, &mut body);
        }
        put_option(&mut body);
        assert_eq!(
            shown("CheckpointPod", Side::Request, &body),
            json!({
                "pod_sandbox_id": "p",
                "output_path": "/to",
                "container_ids": ["c", "d"],
                "options": {"k": "v"}
            })
        );

        let mut body = Vec::new();
        text(1, "/from", &mut body);
        let config = v1::PodSandboxConfig {
            hostname: "h".into(),
            ..Default::default()
        };
        message::encode(2, &config, &mut body);
        text(3, "runc", &mut body);
        put_option(&mut body);
        let container = v1::ContainerConfig {
            working_dir: "/w".into(),
            ..Default::default()
        };
        message::encode(5, &container, &mut body);
        let restored = shown("RestorePod", Side::Request, &body);
        assert_eq!(restored["checkpoint_path"], "/from");
        assert_eq!(restored["config"]["hostname"], "h");
        assert_eq!(restored["runtime_handler"], "runc");
        assert_eq!(restored["options"], json!({"k": "v"}));
        assert_eq!(restored["container_configs"][0]["working_dir"], "/w");

        let reply = b"\x0a\x01p\x12\x06\x0a\x01n\x12\x01c";
        assert_eq!(
            shown("RestorePod", Side::Reply, reply),
            json!({
                "pod_sandbox_id": "p",
                "restored_containers": [{"name": "n", "container_id": "c"}]
            })
        );
        for method in ["UpdatePodSandboxResources", "CheckpointPod"] {
            assert_eq!(shown(method, Side::Reply, b""), json!({}), "{method}");
        }
    }

    #[test]
    fn an_unknown_method_or_a_broken_body_is_none() {
        assert_eq!(
            to_json("/runtime.v1.RuntimeService/Dance", Side::Request, b""),
            None
        );
        assert_eq!(to_json("nonsense", Side::Reply, b""), None);
        let path = "/runtime.v1.RuntimeService/Version";
        assert_eq!(to_json(path, Side::Request, b"\xff\xff"), None);
    }
}
