"""What the two adapters rely on in the installed Flower. Another version fails here first, and says where."""

import ast
import importlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import (
    FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE,
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
)
from flwr.proto import control_pb2, fleet_pb2, heartbeat_pb2, message_pb2, runtime_pb2
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.logger import configure_superlink_log_file
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.state.schema.corestate_models import Task
from flwr.supercore.state.schema.linkstate_models import Node
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client import troubles
from server import gate, link

pytestmark = pytest.mark.deployment
ROOT = Path(__file__).parents[2]

CALLS: dict[Callable[..., Any], str] = {
    make_message: "metadata content error",
    remove_content_from_message: "message",
    inflatable_object.get_all_nested_objects: "obj",
    inflatable_object.get_object_tree: "obj",
    inflatable_object.iterate_object_tree: "tree",
    inflatable_object.no_object_id_recompute: "",
    inflatable_utils.inflate_object_from_contents: "object_id object_contents keep_object_contents objects",
    RuntimeTokenHttpInterceptor: "token",
    RuntimeVersionHttpInterceptor: "component_name",
    SuperExecAuthHttpInterceptor: "master_secret protected_methods",
    NodeAuthHttpInterceptor: "private_key public_key",
    configure_superlink_log_file: "filename interval_hours backup_count",
    ProtobufClient: "base_url interceptors verify timeout retry_invoker",
    RetryInvoker: "wait_gen_factory recoverable_exceptions max_tries max_time on_success on_backoff on_giveup jitter "
    "should_giveup wait_function",
    exponential: "base_delay multiplier max_delay",
    HttpGrid: "runtime_api_address insecure root_certificates token",
    create_app: "config superlink_lifespan_class",
    SuperLinkLifespanConfig: "control_address health_server_address host port insecure certificates "
    "superexec_auth_secret authn_plugin event_log_plugin fleet_event_log_plugin enable_event_log artifact_provider "
    "enable_supernode_auth fleet_api_type fleet_api_address simulation ssl_ca_certfile ssl_certfile ssl_keyfile "
    "database isolation runtime_dependency_install",
}
FIELDS: dict[Any, str] = {
    control_pb2.RegisterNodeRequest: "public_key name",
    control_pb2.StartRunRequest: "fab",
    control_pb2.ListRunsResponse: "run_dict",
    control_pb2.ListNodesResponse: "nodes_info",
    runtime_pb2.AcquireTaskRequest: "supported_task_types",
    runtime_pb2.AcquireTaskResponse: "task token",
    runtime_pb2.PullTaskInputResponse: "run context task_id",
    runtime_pb2.PushTaskOutputRequest: "sub_status details",
    runtime_pb2.PullAppMessagesRequest: "message_ids",
    runtime_pb2.PullAppMessagesResponse: "messages_list message_object_trees",
    fleet_pb2.ActivateNodeRequest: "public_key heartbeat_interval",
    fleet_pb2.PullMessagesResponse: "messages_list message_object_trees",
    fleet_pb2.PushMessagesRequest: "node messages_list message_object_trees",
    fleet_pb2.PushMessagesResponse: "objects_to_push session_id",
    heartbeat_pb2.SendNodeHeartbeatRequest: "node heartbeat_interval",
    message_pb2.PullObjectResponse: "object_found object_available object_content",
    message_pb2.PushObjectRequest: "node run_id session_id object_id object_content",
    message_pb2.PushObjectResponse: "stored",
    message_pb2.ConfirmMessageReceivedRequest: "node run_id message_object_id",
}


def test_the_version_is_the_one_that_the_adapters_were_written_for() -> None:
    assert version("flwr").split(".")[:2] == ["1", "41"]


@pytest.mark.parametrize("file", ["server/link.py", "client/node.py", "simulations/localgrid.py"])
def test_every_name_taken_from_flower_is_there(file: str) -> None:
    taken = 0
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            for alias in node.names:
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    assert hasattr(importlib.import_module(str(node.module)), alias.name), f"{node.module}.{alias.name}"
                taken += 1
    assert taken > 5


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_parameters_are_those_known(call: Callable[..., Any]) -> None:
    assert " ".join(inspect.signature(call).parameters) == CALLS[call]


@pytest.mark.parametrize("message", FIELDS, ids=lambda message: message.__name__)
def test_messages_have_the_fields_that_are_used(message: Any) -> None:
    assert set(FIELDS[message].split()) <= set(message.DESCRIPTOR.fields_by_name)


def test_private_attributes_are_there() -> None:
    client = ProtobufClient("https://127.0.0.1:1")
    assert isinstance(client._client, httpx.Client)
    assert client._client.follow_redirects
    grid = HttpGrid("127.0.0.1:1", token="t")
    assert (grid._client, grid._token, grid.node.node_id) == (None, "t", 1)
    assert "_client" in inspect.getsource(HttpGrid._is_connected.fget)  # a client put there is the one that is used
    assert "_runtime_client" in inspect.getsource(HttpGrid.push_messages) + inspect.getsource(
        HttpGrid._try_push_messages
    )


def test_columns_that_forgive_downtime_are_there() -> None:
    assert {"online_until", "status"} <= set(Node.__table__.columns.keys())
    assert {"active_until", "token", "finished_at"} <= set(Task.__table__.columns.keys())
    assert HEARTBEAT_PATIENCE * HEARTBEAT_DEFAULT_INTERVAL == link._GRACE_SECONDS


def test_constants_agree() -> None:
    assert FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE * 2 < gate.MAX_BODY
    assert troubles._CLOCK_AHEAD <= SYSTEM_TIME_TOLERANCE
    assert troubles._CLOCK_BEHIND <= TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


def test_the_public_port_serves_the_routes_that_were_looked_at_and_no_new_ones() -> None:
    """Each of these asks for a registered node's signature, but for the two that Flower disables with node keys."""
    fleet = {path.removeprefix(gate.FLEET) for _, path in PROTOBUF_REQUEST_TYPES if path.startswith(gate.FLEET)}
    assert fleet == {
        "register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat", "pull-messages",
        "push-messages", "get-run", "get-fab", "push-object", "pull-object", "confirm-message-received",
    }  # fmt: skip


def test_a_node_has_no_way_to_a_bundle() -> None:
    source = (ROOT / "client/node.py").read_text()
    assert "GetFab" not in source
    assert "get_fab" not in source
