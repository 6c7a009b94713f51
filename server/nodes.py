"""Which Flower nodes may connect: exactly those whose keys are on the roster."""

from collections.abc import Sequence

from fedmodels.study import Hospital
from server.home import Home
from server.link import Link
from server.linkconfig import LinkConfig


def link_config(home: Home) -> LinkConfig:
    settings = home.settings
    return LinkConfig(
        public_host=settings.listen,
        public_port=settings.port,
        internal_port=settings.internal_port,
        ca=home.pki.ca,
        certificate=home.pki.server,
        key=home.pki.server_key,
        secret=home.secret,
        database=home.database,
        log=home.directory / "link.log",
    )


def register_roster(link: Link, hospitals: Sequence[Hospital]) -> None:
    """Let the roster's nodes in."""
    for hospital in hospitals:
        link.register(hospital.node_key.encode(), hospital.name)


def drop_others(link: Link, hospitals: Sequence[Hospital]) -> None:
    """Let no node in that is not on the roster. Flower never lets a key in again that was taken off."""
    keys = {hospital.node_key.encode() for hospital in hospitals}
    for node in link.nodes():
        if node.public_key not in keys:
            link.unregister(node.node_id)
