"""Every TOML block of docs/data.md is a valid data binding or input section."""

import re

import pytest
from data_files import REPOSITORY

from fedmodels import strict_toml
from fedmodels.data.binding import parse_binding
from fedmodels.study_input import Input
from fedmodels.typed import Strict

PAGE = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


class Section(Strict, frozen=True):
    input: Input


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_page_is_valid(block):
    if block.startswith("[input]"):
        strict_toml.decode(block, Section, "docs/data.md")
    else:
        parse_binding(block, "docs/data.md")


def test_every_kind_of_rows_has_an_example():
    kinds = set(re.findall(r'^kind = "([a-z0-9-]+)"', "".join(BLOCKS), re.MULTILINE))
    assert kinds >= {"series-long", "series-grid", "series-physionet2012", "text", "table"}
