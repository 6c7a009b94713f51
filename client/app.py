"""The hospital's Flower app: routes each message to the site on this machine and lets no error text out.

Flower sends an exception's text to the coordinator verbatim, so everything is caught at this border: the coordinator
gets a rule or a code in one word, the hospital's own log file gets the rest.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.site import Site
from fedmodels import wire
from fedmodels.errors import RemoteProtocolError

SiteOf = Callable[[Context], Path]


def _configured_site(context: Context) -> Path:
    return Path(str(context.node_config["site"]))


def register(app: ClientApp, site_of: SiteOf = _configured_site) -> ClientApp:
    """Attach the one handler; site_of: which site directory a node's context stands for."""

    @app.train()
    def contribute(message: Message, context: Context) -> Message:
        return Message(_answer(Site(site_of(context)), message.content), reply_to=message)

    return app


def _answer(site: Site, content: RecordDict) -> RecordDict:
    try:
        request, model = _read(content)
        reply, vector = site.handle(request, model)
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may quote data and must not leave
        reply, vector = site.refuse(error), None
    record = RecordDict({"reply": ConfigRecord({"body": wire.encode(reply)})})
    if vector is not None:
        record["vector"] = ArrayRecord({"vector": Array(vector)})
    return record


def _read(content: RecordDict) -> tuple[wire.Request, np.ndarray[tuple[int], np.dtype[np.float32]] | None]:
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
