//! Names and shapes of CRI's messages, for those who show them: path and bytes in, JSON out.
//!
//! Never used on the way of a call: what goes on to the runtime is bytes, not what was decoded here.

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
    ($version:ident $method:ident $side:ident $body:ident $how:ident:
        $($name:literal $request:ident $reply:ident,)*) => {
        match ($method, $side) {
            $(
                ($name, Side::Request) => decoded::<$version::$request, S>($body, $how),
                ($name, Side::Reply) => decoded::<$version::$reply, S>($body, $how),
            )*
            _ => None,
        }
    };
}

/// The methods of a service: those that both versions have, and those that came with v1.
macro_rules! service {
    ($both:ident $later:ident $v1:ident $v1alpha2:ident:
        $($name:literal $request:ident $reply:ident,)*
        later: $($new:literal $new_request:ident $new_reply:ident,)*) => {
        const $both: &[&str] = &[$($name),*];
        const $later: &[&str] = &[$($new),*];

        fn $v1<S: Show>(method: &str, side: Side, body: &[u8], how: S) -> Option<S::Shown> {
            decode! {
                v1 method side body how:
                $($name $request $reply,)*
                $($new $new_request $new_reply,)*
            }
        }

        fn $v1alpha2<S: Show>(method: &str, side: Side, body: &[u8], how: S) -> Option<S::Shown> {
            decode! {
                v1alpha2 method side body how:
                $($name $request $reply,)*
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
}

service! {
    IMAGE IMAGE_LATER image_v1 image_v1alpha2:
    "ListImages" ListImagesRequest ListImagesResponse,
    "ImageStatus" ImageStatusRequest ImageStatusResponse,
    "PullImage" PullImageRequest PullImageResponse,
    "RemoveImage" RemoveImageRequest RemoveImageResponse,
    "ImageFsInfo" ImageFsInfoRequest ImageFsInfoResponse,
    later:
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(paths.len(), 63);
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
