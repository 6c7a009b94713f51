"""The hospital's Flower app: routes each message to the site on this machine and lets no error text out.

Flower sends an exception's text to the coordinator verbatim, so everything is caught at this border: the coordinator
gets a rule or a code in one word, the hospital's own log file gets the rest.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.site import Model, Reply, Site
from fedmodels import wire
from fedmodels.errors import RemoteProtocolError

SiteOf = Callable[[Context], Path]


def _configured_site(context: Context) -> Path:
    return Path(str(context.node_config["site"]))


def register(
    app: ClientApp, site_of: SiteOf = _configured_site, on_unlogged: Callable[[Exception], None] = lambda _: None
) -> ClientApp:
    """Attach the one handler.

    site_of: which site directory a node's context stands for; on_unlogged: gets what kept even a refusal from being
    logged. The node holds that refusal back.
    """

    @app.train()
    def contribute(message: Message, context: Context) -> Message:
        reply: wire.Reply
        vector: npt.NDArray[np.uint32] | None = None
        try:
            reply, vector = _answer(Site(site_of(context)), message.content)
        except Exception as error:  # noqa: BLE001 - not even the hospital's own log can be written
            on_unlogged(error)
            reply = wire.Refusal("failed")
        record = RecordDict({"reply": ConfigRecord({"body": wire.encode(reply)})})
        if vector is not None:
            record["vector"] = ArrayRecord({"vector": Array(vector)})
        return Message(record, reply_to=message)

    return app


def _answer(site: Site, content: RecordDict) -> Reply:
    try:
        return site.handle(*_read(content))
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may quote data and must not leave
        return site.refuse(error), None


def _read(content: RecordDict) -> tuple[wire.Request, Model | None]:
    try:
        body = content.config_records["request"]["body"]
        arrays = content.array_records.get("model")
        model = None if arrays is None else arrays["model"].numpy()
    except (KeyError, ValueError, TypeError) as error:
        raise RemoteProtocolError("a request that cannot be read") from error
    if not isinstance(body, bytes):
        raise RemoteProtocolError("a request whose body is not bytes")
    if model is not None and (model.dtype != np.float32 or model.ndim != 1):
        raise RemoteProtocolError("a model that is not a float32 vector")
    return wire.decode_request(body), model


app = ClientApp()
register(app)
