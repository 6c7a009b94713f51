import string

import numpy as np
import pytest
from data_files import read, read_unlabelled
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.data.dataset import TEST
from fedmodels.data.text import cut, token_spans, tokenise
from fedmodels.errors import DataError
from fedmodels.study_input import TextInput

INPUT = TextInput(vocabulary=4096, max_tokens=6)
BINDING = """
kind = "text"
path = "t.csv"
[columns]
patient = "row"
label = "label"
text = ["title", "ask"]
[split]
test_fraction = 0.5
"""


def test_the_buckets_of_words_are_the_same_in_every_version():
    assert tokenise("发热 fever 39", INPUT) == EXPECTED_BUCKETS


# Written down once: a model's embedding means nothing under another hash.
EXPECTED_BUCKETS = [1282, 965, 986, 172]


def test_every_han_character_and_every_other_word_is_a_token():
    wide = TextInput(vocabulary=1 << 22, max_tokens=50)
    tokens = tokenise("乙肝HBV-DNA 阳性，fever。", wide)
    assert tokens == [tokenise(word, wide)[0] for word in ("乙", "肝", "hbv", "dna", "阳", "性", "fever")]
    assert len(set(tokens)) == 7


def test_width_case_and_punctuation_do_not_matter():
    assert tokenise("ＦＥＶＥＲ，　39", INPUT) == tokenise("fever 39!", INPUT)


@given(st.text(max_size=200))
def test_tokens_are_buckets_above_padding_and_no_more_than_asked_for(text):
    tokens = tokenise(text, INPUT)
    assert len(tokens) <= INPUT.max_tokens
    assert all(1 <= token < INPUT.vocabulary for token in tokens)


@given(st.text(string.ascii_letters + string.punctuation + " 咳嗽发热", max_size=40))
def test_a_longer_limit_only_adds_tokens_at_the_end(text):
    longer = tokenise(text, TextInput(vocabulary=4096, max_tokens=100))
    assert tokenise(text, INPUT) == longer[: INPUT.max_tokens]


@pytest.mark.parametrize(("keep", "kept"), [("head", "abcdef"), ("tail", "efghij"), ("both", "abchij")])
def test_a_longer_text_keeps_the_end_or_ends_that_the_study_names(tmp_path, keep, kept):
    input_ = TextInput(vocabulary=4096, max_tokens=6, keep=keep)
    data = read(tmp_path, input_, BINDING, t__csv="label,title,ask\nabsent,a b c d e,f g h i j\ndisease,a b c,d e f\n")
    assert data.x.tolist() == [tokenise(" ".join(kept), input_), tokenise("a b c d e f", input_)]
    (note,) = data.notes
    assert note.startswith("1 of 2 texts have more than 6 tokens: only ")


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 9), st.sampled_from(["head", "tail", "both"]))
def test_a_cut_takes_from_the_ends_and_no_more_than_asked_for(tokens, most, keep):
    kept = cut(tokens, TextInput(max_tokens=most, keep=keep))
    assert len(kept) == min(most, len(tokens))
    if keep == "head":
        assert kept == tokens[:most]
    elif keep == "tail":
        assert kept == tokens[-most:]
    elif len(tokens) > most:
        assert kept == [*tokens[: most - most // 2], *tokens[len(tokens) - most // 2 :]]


def test_texts_are_padded_with_zeros_and_text_columns_follow_each_other(tmp_path):
    content = "label,title,ask\nabsent,咳嗽,no fever\ndisease,cough,\n".encode("gb18030")
    data = read(tmp_path, INPUT, 'encoding = "gb18030"' + BINDING, t__csv=content)
    assert data.x.dtype == "int32"
    assert data.x.tolist() == [[*tokenise("咳嗽no fever", INPUT), 0, 0], [*tokenise("cough", INPUT), 0, 0, 0, 0, 0]]
    assert data.lengths.tolist() == [4, 1]
    assert data.y.tolist() == [0, 1]


def test_texts_need_no_label(tmp_path):
    binding = BINDING.replace('label = "label"\n', "").partition("[split]")[0]
    data = read_unlabelled(tmp_path, INPUT, binding, t__csv="title,ask\ncough,fever\n")
    assert data.x.tolist() == [[*tokenise("cough fever", INPUT), 0, 0, 0, 0]]
    assert data.split.tolist() == [TEST]


def test_a_wrong_encoding_is_named_and_not_guessed(tmp_path):
    content = "label,title,ask\nabsent,咳嗽,x\n".encode("gb18030")
    with pytest.raises(DataError, match="line 2 is not utf-8 text") as caught:
        read(tmp_path, INPUT, 'encoding = "utf-8"' + BINDING, t__csv=content)
    assert "encoding" in caught.value.fix


NAMED = "label,title,ask\nabsent,Dr. Smith,no fever\ndisease,谢谢医生,cough\n"


def test_identifiers_reach_no_model_unless_the_study_says_so(tmp_path):
    data = read(tmp_path, INPUT, BINDING, t__csv=NAMED)
    other = read(tmp_path, INPUT, BINDING, t__csv=NAMED.replace("Smith", "Jones"))
    assert np.array_equal(data.x, other.x)
    assert data.x[0].tolist() == [*tokenise("dr <name> no fever", INPUT), 0, 0]
    assert data.notes == ("identifiers were masked in 1 of 2 texts; others may have been missed",)
    shown = TextInput(INPUT.vocabulary, INPUT.max_tokens, mask_identifiers=False)
    data = read(tmp_path, shown, BINDING, t__csv=NAMED)
    assert data.x[0].tolist() == [*tokenise("dr smith no fever", INPUT), 0, 0]
    assert data.notes == ()


def test_a_mark_is_one_token_that_no_word_has():
    assert len(tokenise("<name><phone>", INPUT)) == 2
    assert not set(tokenise("<name><number><phone><email><date>", INPUT)) & set(
        tokenise("name number phone email date", INPUT)
    )


def test_a_byte_order_mark_does_not_change_the_first_column(tmp_path):
    data = read(tmp_path, INPUT, BINDING, t__csv="\ufefflabel,title,ask\nabsent,a,b\n")
    assert data.y.tolist() == [0]


def test_records_without_a_word_are_counted_and_refused(tmp_path):
    with pytest.raises(DataError, match="1 of 2 records have no word in column title, ask"):
        read(tmp_path, INPUT, BINDING, t__csv="label,title,ask\nabsent,a,b\ndisease,。。,\n")


@given(st.text())
def test_every_token_is_found_where_it_is_written(text):
    wide = TextInput(vocabulary=1 << 22, max_tokens=100)
    spans, tokens = token_spans(text, wide), tokenise(text, wide)
    assert len(spans) == len(tokens)
    assert [begin for begin, _ in spans] == sorted(begin for begin, _ in spans)
    for (begin, end), token in zip(spans, tokens, strict=True):
        assert token in tokenise(text[begin:end], wide)
