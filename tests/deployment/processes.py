"""The processes of a deployment under test: `processes.py link CONFIG` and `processes.py node OPTIONS`, both JSON.

A node's ClientApp is a stand-in that answers without a site, each kind of request in a way that a test can recognise;
with the option `app` set to `installed` it is the one of the package.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedmodels import wire


def link(options: dict[str, str]) -> None:
    from server.link import serve
    from server.linkconfig import LinkConfig

    ports = {key: int(options.pop(key)) for key in ("public_port", "internal_port")}
    host = options.pop("public_host")
    config = LinkConfig(public_host=host, **ports, **{key: Path(value) for key, value in options.items()})
    serve(config, ready=lambda: print("ready", flush=True))


def node(options: dict[str, str]) -> None:
    if options.get("app") != "installed":  # whose import takes seconds
        sys.modules["client.app"] = SimpleNamespace(register=lambda *_, **__: stand_in())  # type: ignore[assignment]
    import client.node

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    held_back = options.get("may_leave") == "no"
    client.node.run_node(
        client.node.NodeOptions(
            address=options["address"],
            ca=options["ca"],
            node_key=Path(options["site"]) / "node.key",
            site=Path(options["site"]),
            may_leave=lambda body, vector: not held_back,
            on_event=lambda text: print(text, flush=True),
        ),
        stop,
    )
    print("stopped", flush=True)


def stand_in() -> ClientApp:
    """`presence` is answered with the hospital's name, `contribute` with the model's bits plus one (the session names
    seconds to wait before), `setup` fails with a text that must not leave, `unmask` kills the process."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        site = Path(str(context.node_config["site"]))
        request = wire.decode_request(message.content.config_records["request"]["body"])
        with (site / "seen").open("a") as seen:
            seen.write(f"{type(request).__name__}\n")
        match request:
            case wire.SetupRequest():
                raise ValueError("patient 4711")
            case wire.UnmaskRequest():
                os.kill(os.getpid(), signal.SIGKILL)
            case wire.ContributeRequest():
                time.sleep(float(request.session))
        record = RecordDict({"reply": ConfigRecord({"body": wire.encode(wire.PresenceReply(site.name, bytes(64)))})})
        model = message.content.array_records.get("model")
        if model is not None:
            record["vector"] = ArrayRecord({"vector": Array(model["model"].numpy().view(np.uint32) + np.uint32(1))})
        return Message(record, reply_to=message)

    return app


if __name__ == "__main__":
    {"link": link, "node": node}[sys.argv[1]](json.loads(sys.argv[2]))
