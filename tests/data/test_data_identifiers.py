"""Identifiers that must go, and words that look like them and must stay."""

import csv

import pytest
from data_files import public_data
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.data.identifiers import MARKS, mask, normalise


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Seen by Dr. Jane Smith.", "Seen by Dr. <name>."),
        ("Dr.Smith", "Dr.<name>"),
        ("MR. SMITH", "MR. <name>"),
        ("dr. smith said", "dr. <name> said"),
        ("Mrs. O'Brien-Jones and Ms Müller", "Mrs. <name> and Ms <name>"),
        ("Prof. van der Berg", "Prof. <name>"),
        ("Miss D. Miller", "Miss <name>"),
        ("Patient: John Smith, 56", "Patient: <name>, 56"),
        ("Patient: Smith, John", "Patient: <name>"),
        ("Patient Name: JOHN SMITH\nDOB: 01/02/1960", "Patient Name: <name>\nDOB: <date>"),
        ("Attending: A. B. Carter", "Attending: <name>"),
        ("John Smith, MD", "<name>, MD"),
        ("my name is john and i cough", "my name is <name> and i cough"),
        ("+44 20 7946 0958 or (555) 123-4567", "<phone> or <phone>"),
        ("Tel. 020 7946 0958", "Tel. <phone>"),
        ("john.smith+x@nhs.co.uk now", "<email> now"),
        ("MRN: 0012345, Hospital No. AB1234", "MRN: <number>, Hospital No. <number>"),
        ("NHS number: 943 476 5919", "NHS number: <number>"),
        ("SSN 123-45-6789", "SSN <number>"),
        ("born on 3 March 1960", "born on <date>"),
    ],
)
def test_identifiers_in_english_are_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("谢谢张医生", "谢谢<name>医生"),
        ("欧阳教授", "<name>教授"),
        ("请王伟主任会诊", "请<name>主任会诊"),
        ("王小明先生，您好", "<name>先生,您好"),
        ("李女士", "<name>女士"),
        ("患者王小明，男，56岁", "患者<name>,男,56岁"),
        ("患者：王小明", "患者:<name>"),
        ("患者姓名：阿卜杜拉·买买提，男", "患者姓名:<name>,男"),
        ("姓名：张三性别：男", "姓名:<name>性别:男"),
        ("姓名 李四 男", "姓名 <name> 男"),
        ("主治医师：刘洋，", "主治医师:<name>,"),
        ("我叫王芳，今年", "我叫<name>,今年"),
        ("手机１３８００１３８０００", "手机<phone>"),
        ("138-0013-8000或+86 138 0013 8000", "<phone>或<phone>"),
        ("138\u200b0013\u200b8000", "<phone>"),
        ("（010）12345678、0755-12345678", "<phone>、<phone>"),
        ("11010119900307123X", "<number>"),
        ("110101 19900307 1234", "<number>"),
        ("110101900307123", "<number>"),
        ("身份证号：11010119900307123x", "身份证号:<number>"),
        ("住院号：123456，病历号A00123", "住院号:<number>,病历号<number>"),
        ("邮箱zhang@x.com，微信号：abc12345", "邮箱<email>,微信号:<number>"),
        ("出生日期：1960年3月5日；1960年3月5日出生", "出生日期:<date>;<date>出生"),
    ],
)
def test_identifiers_in_chinese_are_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "MR angiography; MS patient with MR; history of MS. Patient denies",
        "Patient: Denies chest pain",
        "Pt: Male, 54",
        "Drug name: Aspirin 100 mg",
        "Doctor says; Nurse Practitioner",
        "BP 120/80, HR 72, WBC 12.5, seen 2024-01-31 07:30, T 38.5-39.2",
        "glucose 5.6-7.8 mmol/L; 100-200-300 mg; 20807000 copies; 20100918",
        "谢谢医生,主任医生,任何医生,通常医生,由于医生,向医生咨询,经文医生",
        "高血压医生,许多医生,周末医生,结石医生,十分钟医生,上周医生,健康教授",
        "患者高血压,男,患者咳嗽,我先生,医生:这个月我的",
        "血压140/90mmHg,体温38.5,病毒含量20807000,2010年1月",
    ],
)
def test_what_only_looks_like_an_identifier_stays(text):
    assert mask(text) == text


def test_few_real_questions_in_chinese_change():
    path = public_data("zh_internal_medicine") / "zh_internal_medicine_train.csv"
    with path.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert len(texts) == 5789
    # Nobody is named in these questions, so that whatever changes is a mistake.
    assert sum(mask(text) != normalise(text) for text in texts) <= 5


@given(st.text(max_size=200))
def test_a_second_pass_finds_nothing_new_to_normalise(text):
    masked = mask(text)
    assert normalise(masked) == masked


@given(st.from_regex(r"1[3-9][0-9]{9}", fullmatch=True), st.sampled_from(["", " ", "，", "请打", "call "]))
def test_every_chinese_mobile_number_goes_whatever_stands_before_it(number, before):
    assert number not in mask(f"{before}{number}")


@pytest.mark.parametrize("unit", ["0", "a", "A", "1-", "+1 ", "A. ", "Dr. ", "姓名", "王", "tel ", "a.", " ", "0 "])
def test_hostile_repetitions_take_no_more_than_linear_time(unit):
    text = f"MRN tel {unit * 30_000} DOB {' ' * 30_000}"
    assert not set(MARKS) & {text}
    assert len(mask(text)) <= len(text) * 3
