"""Identifiers in free text, replaced before a model sees it: a best effort that reduces what is seen, no anonymisation.

Covered, in Chinese and English: names after or before titles and after labels, e-mail addresses, resident identity
card numbers, telephone numbers, numbers after labels such as MRN or 住院号, and dates of birth after labels.
Not covered: names without title or label, postal addresses, employers and schools, other dates, ages, relatives' roles,
nicknames, rare surnames, other languages, and whatever is misspelt. Privacy rests on noise and aggregation, never on
this.

Precision matters as much: Chinese has no spaces, so that 谢谢医生 and 高血压医生 hold surnames before a title.
Surnames that also end or begin common words count only where the characters around them rule those words out.
"""

import re
import unicodedata
from collections.abc import Callable

NAME, NUMBER, PHONE, EMAIL, DATE = MARKS = ("<name>", "<number>", "<phone>", "<email>", "<date>")
"""What identifiers become. Each is a single token to the tokeniser."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")


def normalise(text: str) -> str:
    """NFKC without invisible characters, so that neither width nor a hidden space keeps a pattern from matching."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))


def mask(text: str) -> str:
    """The normalised text with identifiers of the known forms replaced by `MARKS`.

    >>> mask("Seen by Dr. Jane Smith, call +44 20 7946 0958")
    'Seen by Dr. <name>, call <phone>'
    >>> mask("患者姓名：王小明，手机13800138000，高血压三年，谢谢医生")
    '患者姓名:<name>,手机<phone>,高血压三年,谢谢医生'
    """
    text = normalise(text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


# --- numbers --------------------------------------------------------------------------------------------------------

_DASH = "[-\u2010-\u2015\u2212]"
_GAP = f"(?:[ .]|{_DASH})?"
_COLON = r"\s{0,3}(?:[:#=]|号码?|是|为)?\s{0,3}[:#]?\s{0,3}"
_EMAIL = r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
# Region, date of birth, serial number and check character (GB 11643-1999), or the 15 digits of before 1999. A mistyped
# number points at a person, too: the date has to be one, the check character need not be right.
_MONTH_DAY = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_CARD = (
    rf"(?<![A-Za-z\d])[1-9]\d{{5}}{_GAP}(?:(?:18|19|20)\d{{2}}{_MONTH_DAY}{_GAP}\d{{3}}[\dXx]|\d{{2}}{_MONTH_DAY}\d{{3}})"
    r"(?![A-Za-z\d])"
)
_MRN = (
    r"((?:住院|病历|病案|门诊|就诊卡?|登记|挂号|患者|病人|档案|检查|影像|标本|医保卡?|社保卡?|身份证|护照)(?:编?号码?|ID|id)"
    r"|(?:身份证|护照|医保卡|社保卡|QQ|微信号?)"
    r"|(?i:\b(?:MRN|SSN|NHS (?:no|number)|NHI|medical record (?:no|number)|(?:patient|hospital|chart|account|accession|"
    r"passport|insurance|social security|WeChat)(?: (?:id|no|number|#))))\b\.?)"
    rf"({_COLON})(?=[A-Za-z_-]*\d)[A-Za-z0-9](?:[A-Za-z0-9_/]|{_DASH}|(?<=\d) (?=\d)){{2,}}"
)
_TELEPHONE_LABEL = (
    r"((?:电话|手机|联系方式|座机|传真)|(?i:\b(?:tel|telephone|phone|mobile|cell|fax)\b\.?))"
    rf"({_COLON})\+?\(?\d(?:[\d ()]|{_DASH}){{5,}}\d"
)
_TELEPHONE = "|".join(
    (
        rf"(?<!\d)(?:\+?86{_GAP})?1[3-9]\d{_GAP}\d{{4}}{_GAP}\d{{4}}(?!\d)",
        rf"(?<![\d.])(?:\(0\d{{2,3}}\) ?|0\d{{2,3}}{_DASH})\d{{7,8}}(?:{_DASH}\d{{1,6}})?(?!\d)",
        rf"(?<![\d.])(?:\(\d{{3}}\) ?|\d{{3}}(?:\.|{_DASH}))\d{{3}}(?:\.|{_DASH})\d{{4}}(?!\d)",
        r"(?<![\d.])0\d{2,4} \d{3,4} \d{3,4}(?!\d)",
        rf"(?<![\d+])\+[1-9]\d{{0,2}}(?:[ .(]|{_DASH})*\d(?:[ .()]|{_DASH}|\d){{5,}}\d(?!\d)",
    )
)
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_DAY = (
    rf"(?:\d{{4}} ?[-/.年] ?\d{{1,2}}(?: ?[-/.月] ?\d{{1,2}}日?|月)?|\d{{1,2}}[-/. ]\d{{1,2}}[-/. ]\d{{2,4}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)? (?i:{_MONTH}),? \d{{4}}|(?i:{_MONTH}) \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
    r"|\d{4}年?(?!\d))"
)
_BORN = (
    r"(出生(?:日期|年月日?|于)?|生日|生于|(?i:\bD\.?O\.?B\b\.?|\bdate of birth|\bbirth ?da(?:te|y)|\bborn(?: on| in)?))"
    rf"(\s{{0,3}}(?:[:是为在]|is\b)?\s{{0,3}}){_DAY}"
)
_BORN_AFTER = rf"{_DAY}(?=\s*(?:出生|生人))"

# --- names in English -----------------------------------------------------------------------------------------------

_UPPER, _LETTER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u017f", "A-Za-z\u00c0-\u024f"
_WORD = rf"[{_UPPER}](?:[{_LETTER}]|['’-](?=[{_LETTER}]))*"
_ONE = rf"(?:[{_UPPER}]\.|{_WORD})"
_PARTICLE = r"(?:(?:van|von|de|der|den|del|di|da|dos|la|le|bin|ibn|al|el) )*"
_MORE = rf"(?:(?<=\.){_WORD}| {_PARTICLE}{_ONE})"
_FULL = rf"{_PARTICLE}{_ONE}{_MORE}{{0,3}}"
_COMMON = (
    r"(?!(?i:the|a|an|patient|pt|he|she|it|they|his|her|this|that|there|no|not|none|nil|with|without|and|or|history|denies|"
    r"reports|male|female|man|woman|boy|girl|unknown|anonymous|stable|alert|well|comfortable|asymptomatic|deceased|"
    r"imaging|angiography|scan|practitioner|specialist|manager|anesthetist|who|of|in|on|is|was|has|had)\b(?!\.))"
)
_TITLE = (
    rf"((?<![{_LETTER}])(?:(?:Dr|Mr|Mrs|Ms|Mx|Prof)(?:\. ?| )|(?:DR|MR|MS|PROF)\. ?|MRS[. ] ?|"
    rf"(?:Miss|Madam|Professor|Doctor|Nurse|Sister|MISS|PROFESSOR|DOCTOR) )(?:(?:Dr|Prof)\.? )?){_COMMON}{_FULL}"
)
_SMALL = rf"((?<![{_LETTER}])(?:(?:dr|mr|ms|prof)\. ?|mrs\.? )){_COMMON}[a-z]{{2,}}(?:-[a-z]+)?"
_LABEL = (
    r"((?i:(?<!drug )(?<!brand )(?<!trade )(?<!generic )(?<!file )\b"
    r"(?:(?:(?:patient|full|first|last|family|given)(?:'s)? )?name|"
    r"name of patient|surname|next of kin|attending(?: physician)?|physician|referring (?:physician|doctor|gp)|"
    r"consultant|surgeon|radiologist|pathologist|(?:electronically )?signed(?: by)?|(?:dictated|reported|reviewed) by))"
    rf"\s*: *){_COMMON}{_FULL}(?:, ?{_FULL})?"
)
_PATIENT = rf"(\b(?i:patient|pt)\s*: *){_COMMON}(?:{_ONE}(?:, ?{_ONE}|{_MORE}){{1,3}}|{_WORD}(?=\s*(?:[,;.()\n]|\d|$)))"
_SELF = rf"(\b(?i:my name is|i am called) ){_COMMON}(?:{_FULL}|[a-z]+)"
_DEGREE = rf"(?<![{_LETTER}]){_ONE}{_MORE}{{1,3}}(?=,? (?:M\.?D|D\.?O|R\.?N|Ph\.?D|F\.?R\.?C\.?P|NP|PA-C)\b)"

# --- names in Chinese -----------------------------------------------------------------------------------------------

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_COMPOUND = "欧阳|司马|上官|诸葛|夏侯|皇甫|尉迟|公孙|慕容|司徒|令狐|东方"
_PLAIN = (
    "樊庞邢骆裴詹聂葛祁阮佟虞岳柯王李刘陈杨赵吴徐朱郭郑冯董袁邓傅沈彭"
    "吕卢蒋蔡贾魏薛阎邹熊郝崔邱侯邵孟倪韩宋曹潘杜袁姚谭廖尹柳翟耿齐俞"
)
# Surnames that also end common words, each followed by the characters before it that make such a word; and surnames
# that count only where no Han character stands before them.
_AFTER = (
    "桂肉月 张紧扩舒夸主开纸 黄发变蛋姜大硫牛焦蜡泛偏面微淡皮尿 "
    "周一二两三四五六七八九十几数上下每本半圆多单双外 孙子外祖儿 胡二 马立人骑河 林西树园森素灵洛 罗阿 "
    "梁鼻脊桥 谢谢感多致答代酬 唐荒 许也允或兴少些 曾未不 苏紫复 丁布园 叶肺茶树荷两左右枝上下中 "
    "余其多剩残业 戴佩穿 夏今每初去 钟分秒闹点 汪泪 田农 范规防模 石结碎化磁胆尿肾 姜生干 秦大 "
    "史病历家婚往育经 顾照回只兼 龙恐 贺祝庆 雷打地 汤喝菜鸡 江长 陆大着登 孔瞳面毛穿鼻钻 任主信责担何 "
    "何任如为几 方地对双配处药官大多中西 康健安 毛眉睫汗腋阴寒绒发 常正异经通非平反日 段阶一时片节手 "
    "施措实 严庄尊威 万千百十 于由对关属至处位等大小高低多少过用归基鉴在 金现资黄 梅杨话 洪防 "
    "白明苍蛋变发美空清 程疗病过流工全里 温体高低保恒 "
)
_EDGE = "高文安成关易古包武"
_SURNAME = "|".join(
    [_COMPOUND, f"[{_PLAIN}]", *(f"(?<![{one[1:]}]){one[0]}" for one in _AFTER.split()), f"(?<![{_HAN}])[{_EDGE}]"]
)
# Given names are looked for only where a name may begin, after surnames that begin few words, and hold no word that
# joins others.
_BEGIN = f"(?:(?<![{_HAN}])|(?<=[是找请由叫给被经和跟让问]))"
_NO_NAME = "的是了在有我你他她不没吗呢吧啊请问找看说和与及为被把给让叫对向从到也都很就这那哪位个名些科专全主"
_GIVEN = rf"(?:(?![{_NO_NAME}])[{_HAN}]){{1,2}}"
_FULL_HAN = (
    f"(?:{_COMPOUND}|[{_PLAIN}张黄周孙胡马林罗梁唐苏叶戴夏汪范姜秦顾贺陆])(?!末|围|边|身|上|血|疸|江|柱){_GIVEN}"
)
_HAN_TITLE = "(?=副?(?:医生|大夫|医师|主任|教授|护士|院长|先生|女士|小姐|太太|老师|博士))"
_NEXT_FIELD = f"(?=性别|年龄|科|床|住院|门诊|电话|日期|出生|男|女|[^{_HAN}·]|$)"
_LABELLED_HAN = (
    r"((?:姓名|病人名|患者名|联系人|家属|签名|签字|署名|检查者|记录者|报告者|审核者|责任护士|(?:主治|主管|管床|经治|住院|报告|审核|送检|申请|接诊|"
    rf"手术|麻醉|检验)(?:医生|医师))\s*:\s*)(?:[{_HAN}]{{1,8}}(?:·[{_HAN}]{{1,8}})+|[{_HAN}]{{2,4}}?{_NEXT_FIELD}|[{_HAN}]{{2,3}})"
)
_UNPUNCTUATED_HAN = rf"((?:姓名|主治医[生师]|主管医[生师]|管床医[生师]|我叫|名叫)\s*){_FULL_HAN}{_NEXT_FIELD}"
_PATIENT_HAN = rf"((?:患者|病人)\s*:?\s*){_FULL_HAN}(?=[,、;\s(]*[男女])"
_COLON_HAN = rf"((?:患者|病人|医生|医师)\s*:\s*){_FULL_HAN}{_NEXT_FIELD}"

Replacement = str | Callable[[re.Match[str]], str]
_RULES: tuple[tuple[re.Pattern[str], Replacement], ...] = (
    (re.compile(_EMAIL), EMAIL),
    (re.compile(_CARD), NUMBER),
    (re.compile(_MRN), rf"\1\2{NUMBER}"),
    (re.compile(_BORN), rf"\1\2{DATE}"),
    (re.compile(_BORN_AFTER), DATE),
    (re.compile(_TELEPHONE_LABEL), rf"\1\2{PHONE}"),
    (re.compile(_TELEPHONE), PHONE),
    (re.compile(_LABELLED_HAN), rf"\1{NAME}"),
    (re.compile(_UNPUNCTUATED_HAN), rf"\1{NAME}"),
    (re.compile(_PATIENT_HAN), rf"\1{NAME}"),
    (re.compile(_COLON_HAN), rf"\1{NAME}"),
    (re.compile(rf"{_BEGIN}{_FULL_HAN}{_HAN_TITLE}"), NAME),
    (re.compile(rf"(?:{_SURNAME}){_HAN_TITLE}"), NAME),
    (re.compile(_LABEL), rf"\1{NAME}"),
    (re.compile(_PATIENT), rf"\1{NAME}"),
    (re.compile(_TITLE), rf"\1{NAME}"),
    (re.compile(_SMALL), rf"\1{NAME}"),
    (re.compile(_SELF), rf"\1{NAME}"),
    (re.compile(_DEGREE), NAME),
)
