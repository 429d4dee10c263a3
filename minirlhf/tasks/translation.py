"""Translation: `english: my mother bought two red apples yesterday. chinese:` -> `我妈妈昨天买了两个红苹果。`

A synchronous grammar writes both sides of a sentence at once:

    English    subject  verb group  determiner adjective noun  place  time  .
    Chinese    subject  time  negation/modal  place  verb(了)  determiner+measure adjective noun  。

So a translator has to move time and place before the verb, and put negation before the place. It has to choose
the measure word by the noun, and to drop number and agreement. Each English sentence has one Chinese sentence,
and the other way round.

The split is by a hash of (subject, verb, adjective, noun). So no training sentence has
all four of a held-out sentence, in any tense or at any time or place.
"""

import random
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from minirlhf.metrics.overlap import sentence_chrf
from minirlhf.tasks.splits import check_split, draw_items, task_split

NAME = "translation"
MAX_NEW = 32
FIELDS = ("reference",)
REWARD = "chrF"
RL_WEIGHT = 0.5
EVAL_SPLITS = ("validation", "test")

# English -> Chinese; those of the second table take the third person singular.
_PLAIN = {"i": "我", "you": "你", "we": "我们", "they": "他们", "the children": "孩子们"}
_THIRD = {"he": "他", "she": "她", "my mother": "我妈妈", "my father": "我爸爸", "my friend": "我朋友",
          "my big sister": "我姐姐", "my little brother": "我弟弟", "the teacher": "老师",
          "the doctor": "医生", "that student": "那个学生"}
SUBJECTS = _PLAIN | _THIRD

PLACES = {"": "", "at the market": "在市场", "at the shop": "在商店", "at home": "在家", "at school": "在学校",
          "at the library": "在图书馆", "at the restaurant": "在饭馆", "in the park": "在公园",
          "in beijing": "在北京", "in shanghai": "在上海"}

_PAST = {"": "", "yesterday": "昨天", "last night": "昨晚", "last week": "上周", "this morning": "今天早上"}
_FUTURE = {"": "", "tomorrow": "明天", "tonight": "今晚", "next week": "下周"}
_PRESENT = {"": "", "today": "今天", "now": "现在"}

# English -> (Chinese, whether the noun's measure word follows, whether the English noun is plural).
DETERMINERS = {"a": ("一", True, False), "two": ("两", True, True), "three": ("三", True, True),
               "five": ("五", True, True), "ten": ("十", True, True), "many": ("很多", False, True),
               "this": ("这", True, False), "that": ("那", True, False),
               "these": ("这些", False, True), "those": ("那些", False, True)}
# A negated sentence is about definite things: 没买两个苹果 would need a context to make sense.
_DEFINITE = ("this", "that", "these", "those")


class Mode(NamedTuple):
    """Tense and polarity: verb groups by person, what Chinese puts before the place and after the verb, the rest."""

    plain: str
    third: str
    before: str
    after: str
    times: dict[str, str]
    determiners: tuple[str, ...]


MODES = {
    "past": Mode("{past}", "{past}", "", "了", _PAST, tuple(DETERMINERS)),
    "past not": Mode("did not {base}", "did not {base}", "没", "", _PAST, _DEFINITE),
    "future": Mode("will {base}", "will {base}", "会", "", _FUTURE, tuple(DETERMINERS)),
    "future not": Mode("will not {base}", "will not {base}", "不会", "", _FUTURE, _DEFINITE),
    "want": Mode("want to {base}", "wants to {base}", "想", "", _PRESENT, tuple(DETERMINERS)),
    "want not": Mode("do not want to {base}", "does not want to {base}", "不想", "", _PRESENT, _DEFINITE),
}

ADJECTIVES = {"": "", "red": "红", "white": "白", "black": "黑", "big": "大", "small": "小", "new": "新",
              "old": "旧", "long": "长", "short": "短", "fresh": "新鲜的", "cheap": "便宜的",
              "beautiful": "漂亮的", "interesting": "有趣的", "important": "重要的"}

# English -> (Chinese, measure word, the adjectives it takes). See plural() for more than one.
NOUNS = {
    "apple": ("苹果", "个", "red big small fresh"), "pear": ("梨", "个", "big small fresh cheap"),
    "egg": ("鸡蛋", "个", "big small fresh cheap"), "cake": ("蛋糕", "个", "big small fresh cheap"),
    "banana": ("香蕉", "根", "big small fresh cheap"), "book": ("书", "本", "new old cheap interesting"),
    "letter": ("信", "封", "long important interesting"), "story": ("故事", "个", "long short new interesting"),
    "shirt": ("衬衫", "件", "red white new old cheap"), "skirt": ("裙子", "条", "red long short new beautiful"),
    "hat": ("帽子", "顶", "red black new old"), "cup": ("杯子", "个", "big small white beautiful"),
    "car": ("车", "辆", "new old cheap beautiful"), "bicycle": ("自行车", "辆", "red new old cheap"),
    "umbrella": ("雨伞", "把", "red black new old"), "pen": ("笔", "支", "red black new cheap"),
    "map": ("地图", "张", "big small new old"), "photo": ("照片", "张", "new old beautiful interesting"),
    "table": ("桌子", "张", "big small new old"), "chair": ("椅子", "把", "big small new old"),
    "computer": ("电脑", "台", "new old cheap"), "watch": ("手表", "块", "new old cheap beautiful"),
    "dog": ("狗", "只", "big small black white"), "cat": ("猫", "只", "big small black white"),
    "bird": ("鸟", "只", "small black white beautiful"), "horse": ("马", "匹", "big small white beautiful"),
    "flower": ("花", "朵", "red white small beautiful"), "tree": ("树", "棵", "big small beautiful"),
}


class Verb(NamedTuple):
    """What goes with a verb. Its base form is its key in VERBS; "" in places means no place."""

    past: str
    chinese: str
    places: tuple[str, ...]
    nouns: tuple[str, ...]
    modes: tuple[str, ...]


def _verb(past: str, chinese: str, places: str, nouns: str, modes: str = ", ".join(MODES)) -> Verb:
    return Verb(past, chinese, ("", *places.split(", ")), tuple(nouns.split()), tuple(modes.split(", ")))


_TRADE = "at the market, at the shop, in beijing, in shanghai"
VERBS = {
    "buy": _verb("bought", "买", _TRADE,
                 "apple pear egg cake banana book shirt skirt hat cup car bicycle umbrella pen map table "
                 "chair computer watch flower"),
    "sell": _verb("sold", "卖", _TRADE, "cake book shirt hat cup car bicycle table chair computer watch flower"),
    "eat": _verb("ate", "吃", "at home, at school, at the restaurant, in the park", "apple pear egg cake banana"),
    "make": _verb("made", "做", "at home, at school", "cake skirt cup"),
    "wash": _verb("washed", "洗", "at home, at school", "apple pear shirt skirt hat cup car bicycle"),
    "read": _verb("read", "读", "at home, at school, at the library, in the park", "book letter story"),
    "write": _verb("wrote", "写", "at home, at school, at the library", "letter story"),
    "draw": _verb("drew", "画", "at home, at school, in the park", "dog cat bird horse flower tree"),
    "borrow": _verb("borrowed", "借", "at school, at the library", "book pen umbrella bicycle computer map chair"),
    "see": _verb("saw", "看见", "at school, in the park, in beijing, in shanghai",
                 "dog cat bird horse flower tree car bicycle", "past, past not"),
    "find": _verb("found", "找到", "at home, at school, at the library, in the park",
                  "book letter pen hat umbrella map watch photo dog cat", "past, past not"),
}


class Frame(NamedTuple):
    """Who does what to which thing. The split depends on it alone."""

    subject: str
    verb: str
    adjective: str
    noun: str


class Setting(NamedTuple):
    """The rest of a sentence."""

    mode: str
    determiner: str
    place: str
    time: str


def plural(noun: str) -> str:
    """The English plural of a noun in NOUNS."""
    return noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("ch") else "s")


def english(frame: Frame, setting: Setting) -> str:
    """The English sentence."""
    mode, verb = MODES[setting.mode], VERBS[frame.verb]
    group = (mode.third if frame.subject in _THIRD else mode.plain).format(base=frame.verb, past=verb.past)
    noun = plural(frame.noun) if DETERMINERS[setting.determiner][2] else frame.noun
    thing = f"{frame.adjective} {noun}".strip()
    determiner = "an" if setting.determiner == "a" and thing[0] in "aeiou" else setting.determiner
    parts = (frame.subject, group, determiner, thing, setting.place, setting.time)
    return " ".join(part for part in parts if part) + "."


def chinese(frame: Frame, setting: Setting) -> str:
    """The Chinese sentence."""
    mode, (noun, measure, _) = MODES[setting.mode], NOUNS[frame.noun]
    determiner, measured, _ = DETERMINERS[setting.determiner]
    return "".join((
        SUBJECTS[frame.subject], mode.times[setting.time], mode.before, PLACES[setting.place],
        VERBS[frame.verb].chinese, mode.after, determiner, measure if measured else "",
        ADJECTIVES[frame.adjective], noun, "。"))


@lru_cache(maxsize=None)
def settings_of(verb: str) -> tuple[Setting, ...]:
    """Every setting that a verb goes with."""
    return tuple(Setting(name, determiner, place, time) for name in VERBS[verb].modes
                 for determiner in MODES[name].determiners for place in VERBS[verb].places
                 for time in MODES[name].times)


@lru_cache(maxsize=None)
def frames(split: str) -> tuple[tuple[Frame, ...], tuple[int, ...]]:
    """The frames of a split, and the running total of their sentences. Raises ValueError for an unknown split."""
    check_split(split, ("train", *EVAL_SPLITS))
    every = (Frame(subject, verb, adjective, noun) for subject in SUBJECTS for verb in VERBS
             for noun in VERBS[verb].nouns for adjective in ("", *NOUNS[noun][2].split()))
    held = tuple(frame for frame in every if task_split(f"{NAME} {' '.join(frame)}") == split)
    return held, tuple(accumulate(len(settings_of(frame.verb)) for frame in held))


def _sentence(split: str, index: int) -> tuple[Frame, Setting]:
    """Sentence number `index` of the split. The sentences are never listed."""
    held, ends = frames(split)
    which = bisect_right(ends, index)
    return held[which], settings_of(held[which].verb)[index - ends[which]]  # counted back from the frame's end


def records(split: str, n: int, seed: int) -> list[dict]:
    """n records with "reference"; sentences are distinct in held-out splits, and all equally likely.

    Raises ValueError for an unknown split, UserError if the held-out split has fewer than n sentences.
    """
    chosen = draw_items(range(frames(split)[1][-1]), n, random.Random(f"{NAME} {split} {seed}"), split)
    sentences = [_sentence(split, index) for index in chosen]
    pairs = [(english(*sentence), chinese(*sentence)) for sentence in sentences]
    return [{"task": NAME, "prompt": f"english: {e} chinese:", "response": c, "reference": c} for e, c in pairs]


def documents(n: int, seed: int) -> list[str]:
    """n sentences of training frames, each in English or Chinese at random, never both side by side."""
    rng = random.Random(f"{NAME} documents {seed}")
    chosen = rng.choices(range(frames("train")[1][-1]), k=n)
    return [(english if rng.random() < 0.5 else chinese)(*_sentence("train", index)) for index in chosen]


def reward(prompt: str, response: str, record: dict) -> float:
    """Sentence chrF (character n-grams to 6, beta 2) against the reference, in [0, 1]; 1.0 if identical."""
    return 1.0 if response == record["reference"] else sentence_chrf(response, [record["reference"]]) / 100


def score(prompt: str, response: str, record: dict) -> dict[str, float]:
    """{"exact match"}: 1.0 where the response is the reference to the character."""
    return {"exact match": float(response == record["reference"])}
