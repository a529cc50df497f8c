#!/usr/bin/env python3
"""Makes the fixtures of tests/worker/tokenizer_golden_test.cc with Hugging Face tokenizers.

    python3 tests/golden/tokenizer/make_goldens.py [SHARED_DIR]

Needs the package tokenizers (0.23) and Python 3.11 (Unicode 14). SHARED_DIR (default: ../shared beside the
checkout) holds the tokenizers that are not part of this repository; their goldens are only rewritten
when it is there. Writes, beside itself:

    strings.json             the texts, once for all tokenizers
    base_bytes.json          a tiny byte-level BPE, trained on this repository's own words
    base_pieces.json         a tiny SentencePiece-style BPE with byte fallback
    variants.json            names, a base and the parts of it to replace: one for every component
    golden_<tokenizer>.json  what the library answers
"""
import json
import pathlib
import random
import sys
import unicodedata

import tokenizers
from tokenizers import Tokenizer, models, trainers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SHARED = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared"
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# The file that no test may depend on the order of: real tokenizers by name.
REAL = {
    "lexico-20m": ROOT / "models/lexico-20m/tokenizer.json",
    "llama3": SHARED / "tokenizers/llama3/tokenizer.json",
    "qwen2.5": SHARED / "tokenizers/qwen2.5/tokenizer.json",
    "stories260K": SHARED / "checkpoints/stories260K/tokenizer.json",
}


def plain_strings():
    yield from ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r", "\t", " \t ", " \n ", "\n \n", "a", " a", "a ",
                " a ", "  a  b  ", "hello", "Hello, world!", "hello world", "Hello  world", "HELLO WORLD"]
    yield from ["I'm you're he's we've they'll I'd don't", "I'M YOU'RE HE'S WE'VE THEY'LL I'D DON'T", "'S 'T 'RE 'VE 'M 'LL 'D",
                "'s't're've'm'll'd", "it''s", "'", "''", "''''", "\u2019s", "it\u2019s I\u2019M", "'\u017f", "\u017fS'\u017f",
                "o'clock rock'n'roll", "'Sam", "x'S", "\u212a'll", "'rE 'Ve 'lL"]
    yield from ["0", "12", "123", "1234", "12345", "1234567890", "3.14159", "1,000,000", "0x1F", "1e-9", "v1.2.3", "2024-11-24",
                "\u0661\u0662\u0663\u0664", "\u0967\u0968\u0969\u096a\u096b", "\u2460\u2461\u2462", "\u2167\u216b", "\u00bd\u00bc\u00be", "\u00b2\u00b3\u00b9",
                "x\u00b2+y\u00b2", "\U0001d7d8\U0001d7d9\U0001d7da\U0001d7db", "\u3007\u4e00\u4e8c\u4e09", "7" * 50, "8" * 301, "1 2  3   4"]
    for n in (2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 127, 128, 129, 200):
        yield " " * n
        yield " " * n + "x"
        yield "\n" * n
    yield from ["\t" * 20, "\r\n" * 12, " \n" * 10, "\n " * 10, "a" + " " * 40, "a" + "\n" * 40 + "b", "  \n  \n  x", "x \n\n\n y", "x\n  y\n    z",
                "\t\tif (x) {\r\n\t\t\treturn;\r\n\t\t}\r\n", "a\rb\rc", "a\n\rb", "\u00a0", "a\u00a0b", "\u00a0\u00a0a", "\u2003\u2003x", "\u3000\u3000\u6f22",
                "\u200b", "a\u200bb", "\ufeff", "\ufeffabc", "a\ufeffb", "\u2028x\u2029y", "\x85", "a\x85b", "\x0b\x0c", "\u180e", "\u1680x", "\u202fx"]
    yield from ["\x00", "a\x00b", "\x00\x00\x00", "\x01\x02\x03", "\x1b[31mred\x1b[0m", "\x7f", "a\x7fb", "\x80\x9f", "\ufffd", "a\ufffdb", "\ufffd\ufffd",
                "\ufffe", "\uffff", "\U0010ffff", "\U0010fffe", "\U0001fffe", "\ue000\uf8ff", "\U000f0000", "\ud7ff\ue000", "\u0378\u0379"]
    yield from ["\u00e9", "e\u0301", "caf\u00e9", "cafe\u0301", "\u00c5 \u212b A\u030a", "\u1e9b\u0323", "q\u0307\u0323", "q\u0323\u0307", "\u0301", "\u0301\u0301\u0301", " \u0301", "a\u0301" * 20,
                "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031ea\u034a\u0357\u0316l\u034f\u0312g\u033e\u0352o", "n\u0303o", "\u00f1", "\u01d5", "U\u0308\u0304", "\u1ea5\u1ead\u1eb7", "o\u031b\u0323", "\u0344", "\u0958\u0929\u0931",
                "\ufb01\ufb02\ufb00", "\u2126 \u212a", "\uff21\uff22\uff23\uff11\uff12", "\u32c0\u3392\u33a1", "\u2474\u24d0", "\u2122\u00ae\u00a9", "\u00aa\u00ba", "\u017f", "\u1e9e\u00df", "STRASSE \u1e9e", "\u0130\u0131iI", "\u0130stanbul", "\u03a3\u03c3\u03c2 \u039f\u03a3", "\u01c4\u01c5\u01c6", "\u1f88\u1fb3", "\u0149"]
    yield from ["\uac00\ub098\ub2e4", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u1100\u1161", "\u1100\u1161\u11a8", "\u1100", "\u1161", "\u11a8", "\uac00\u11a8", "\ud55c\uad6d\uc5b4 \ub9d0", "\u3131\u314f", "\uffa1\uffc2", "\ua960\ud7b0\ud7cb",
                "\u4f60\u597d\u4e16\u754c", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587", "\u30ab\u30bf\u30ab\u30ca\uff76\uff80\uff76\uff85", "\u304c\u3099\u304b\u3099", "\u306f\u309a", "\U00020000\U0002a6d6\U0002f800", "\uf900\ufa0e", "\u2e80\u2f00", "\u3400\u9fff", "\u2ff0\u6c35"]
    yield from ["\u0645\u0631\u062d\u0628\u0627", "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627", "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645", "\ufefb\ufdfa\ufdf2", "\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\ufb1d\ufb2a", "\u200fabc\u200e", "\u202eabc\u202c", "\u2066x\u2069",
                "abc \u0639\u0631\u0628\u064a 123 \u05e2\u05d1\u05e8", "\u0661\u066b\u0665", "\u06f1\u06f2", "\u0640\u0640\u0640", "\u0915\u094d\u0937", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0b95\u0bcb\u0b95\u0bcd\u0b95\u0bb0", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22", "\u0e33\u0eb3", "\u1019\u103c\u1014\u103a\u1019\u102c", "\u0f40\u0f0b\u0f56\u0f7c\u0f51", "\u1780\u17d2\u1798\u17c2\u179a", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u1c90\u10d0", "\u13a0\uab70", "\u0531\u0587", "\u1200\u1260\u123b", "\u16a0\u16b1", "\U00010400\U00010428", "\U00010330\U00010332", "\U00012000", "\U00013000\U00013430", "\U0001e900\U0001e922", "\U00011935\U00011930", "\U0001d15e\U0001d165\U0001d16e"]
    yield from ["\U0001f600", "\U0001f600\U0001f601\U0001f602", "a\U0001f600b", " \U0001f600 ", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\U0001f1e9", "\u2764\ufe0f", "\u2764", "\u0031\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f3f3\ufe0f\u200d\U0001f308",
                "\u200d", "a\u200db", "\u200c\u200d\u200c", "\ufe0f", "\ufe0f\ufe0f", "\U0001f9d1\u200d\U0001f680", "\U0001fae0\U0001fae8", "\u2600\ufe0e", "\u00a9\ufe0f", "\U0001f600" * 30]
    yield from ["!", "!!", "!?!?", "...", "\u2026", "--", "---", "\u2014", "\u2013", "a-b_c", "a--b", "the-final--countdown", "_", "__init__", "a_b", "(a)", "[b]", "{c}", "<d>", "\u201cq\u201d", "\u00abq\u00bb", "\u3010x\u3011", "#hashtag @user", "$100", "\u20ac100", "100%", "a&b", "a+b=c", "a*b", "x^2", "~", "`code`", "|", "\\n", "\\", "//", "/* c */", "://", "https://example.com/a?b=c&d=e#f", "me@example.com", "C:\\dir\\file.txt", "/usr/bin/env", "a.b.c", "\u00a1\u00bf", "\u055a\u0589", "\u0964\u0965", "\u166d\u1680", "\U000111c9x", "\u2e42\u2e43\u2e52", "\u3001\u3002", "\u30fb", "\u2212\u00d7\u00f7", "\u2200\u2203\u2208", "\u02b0\u02bc", "x\u02bcs"]
    yield from ["<|end|>", "<|user|>\nhi<|end|>\n<|assistant|>\n", "<|begin_of_text|>", "<|begin_of_text|><|begin_of_text|>", "a<|end|>b", " <|end|> ", "<|end|", "<|end|>>", "<<|end|>", "<|END|>", "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n", "<|reserved_special_token_0|>", "<tool_call>\n{}\n</tool_call>", "<|fim_prefix|>", "<s>", "</s>", "<unk>", "<s> a </s>", "x<s>y</s>z", "<s></s><s>", " <s>", "<s> ", "<|end|>\n\n<|end|>", "<|e\u0301nd|>", "<|pad|><|reserved|>", "<0x0A>", "<0x41><0x42>", "\u2581", "\u2581a", "a\u2581b", "\u2581\u2581", " \u2581 ", "\u0120a", "\u0120", "\u010a", "\u0122"]
    yield from ["def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n  sum += a[i];\n}", "SELECT * FROM t WHERE a='b';", "{\"key\": [1, 2.5, null, true]}", "<div class=\"x\">y</div>", "$\\frac{a}{b}$", "# Title\n\n- item\n- item 2\n\n```py\nx\n```\n", "camelCaseWord SCREAMING_SNAKE kebab-case", "iPhone eBay McDonald", "aAbBcC", "ABCdefGHI123jkl", "supercalifragilisticexpialidocious", "antidisestablishmentarianism" * 3, "a" * 100, "ab" * 100, "abc" * 67, "z" * 333, "the " * 40, "lexico" * 20, "\u00e9" * 50, "\u6f22" * 60]
    yield from ["The quick brown fox jumps over the lazy dog.", "Lexico keeps the keys and values of a long document as sparse codes over a dictionary.", "In 1998, the committee's report (vol. 3, pp. 12-45) wasn't published; it'd been \"lost\".", "Mr. Smith's caf\u00e9 cost \u20ac3.50 \u2014 na\u00efve r\u00e9sum\u00e9s!", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430?", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5", "Xin ch\u00e0o th\u1ebf gi\u1edbi", "Zdrav\u00edm sv\u011bte, p\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148", "\u00dc\u00f6\u00e4\u00df \u00dcbergr\u00f6\u00dfe", "\u0422\u0435\u0441\u0442mixedScript\u6f22\u5b57test\u0395\u03bb", "latin\u041a\u0438\u0440\u0438\u043b\u043b\u0438\u0446\u0430\u0639\u0631\u0628\u064a\u05e2\u05d1\u05e8\u05d9\u05ea\u0e44\u0e17\u0e22", "\u3053\u3093\u306b\u3061\u306f world 123\u5186", "Once upon a time, there was a little girl named Lily."]


def fuzz_strings(n):
    rng = random.Random(20261124)
    pools = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "     \n\n\r\t\u00a0\u3000", ".,;:!?'\"()[]{}<>|/\\-_=+*&^%$#@~`", "'s't're've'm'll'dSTLM",
             "\u00e9\u00e8\u00fc\u00df\u00e7\u0130\u0131\u017f", "\u0301\u0308\u0323\u20e3\ufe0f\u200d\u0651\u093c\u3099", "\u4f60\u597d\u4e16\u754c\u3042\u30a2\uac00\u1100\u1161\u11a8", "\u0639\u0631\u05d0\u05d1\u0915\u094d\u0e01\u0e33", "\U0001f600\U0001f468\U0001f3fd\U0001d7d8\U00020000\U0010ffff", "\u00b2\u00bd\u2167\u0661\u0967\u2460", "\x00\x01\x1b\x7f\x85\ufeff\ufffd\u2028\ue000", "\u2581\u0120\u010a"]
    for _ in range(n):
        chosen = rng.sample(pools, rng.randint(1, 4))
        yield "".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(1, 40)))
    # Any character of Unicode 14, which Debian's Oniguruma 6.9.8 knows; the library brings a newer one.
    assigned = [c for c in map(chr, range(0x20, 0x20000)) if unicodedata.category(c) not in ("Cn", "Cs")]
    for _ in range(n // 4):
        yield "".join(rng.choice(assigned) for _ in range(rng.randint(1, 12)))


def unicode_samples():
    """Characters whose normal forms, case or category matter, up to Unicode 15."""
    chosen = [c for c in map(chr, range(0x80, 0x1fb00)) if not 0xd800 <= ord(c) < 0xe000 and not 0xac00 <= ord(c) < 0xd7a4
              and (unicodedata.normalize("NFKD", c) != c or c.lower() != c or unicodedata.category(c)[0] in "MPN")]
    every = [chosen[i] for i in range(0, len(chosen), 7)]
    for i in range(0, len(every), 24):
        yield "x".join(every[i:i + 24])
    yield from ["\u32ff", "\U0001f16c", "\uab69", "\ua7f2", "\U0001e030", "\u1cf2\u1cf3", "\u0afa\u1df6", "\U00011938", "\U0001fbf0"]


def train(path, pieces):
    """A tiny BPE; the corpus is text that is ours."""
    corpus = [(ROOT / "models/lexico-20m/MODEL_CARD.md").read_text(), "the cat sat on the mat. hello world! 12 123 1999 caf\u00e9 na\u00efve \u6f22\u5b57 don't it's"] * 2
    tokenizer = Tokenizer(models.BPE(byte_fallback=pieces, unk_token="<unk>" if pieces else None, fuse_unk=pieces))
    if pieces:
        tokenizer.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = tokenizers.decoders.Sequence([tokenizers.decoders.Replace("\u2581", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(), tokenizers.decoders.Strip(" ", 1, 0)])
        special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=430, special_tokens=special, show_progress=False, limit_alphabet=60)
        words = [w for line in corpus for w in line.split()]
        tokenizer.train_from_iterator(words, trainer)
        spec = json.loads(tokenizer.to_str())
        spec["added_tokens"] = spec["added_tokens"][:3]
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(corpus, trainer)
        spec = json.loads(tokenizer.to_str())
    path.write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")) + "\n")


def added(id_, content, **flags):
    fields = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": id_, "content": content, **fields, **flags}


def variants():
    """(name, base, parts to replace, merged into "model" one level deeper)."""
    by = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    seq = lambda kind, *steps: {"type": "Sequence", kind: list(steps)}
    pre = lambda *steps: {"pre_tokenizer": seq("pretokenizers", *steps, by)}
    norm = lambda *steps: {"normalizer": seq("normalizers", *steps)}
    split = lambda pattern, behavior, invert=False: {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield "normalizer " + form, "bytes", norm({"type": form})
    yield "normalizer NFKD Lowercase StripAccents", "bytes", norm({"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"})
    for left in (True, False):
        for right in (True, False):
            yield f"normalizer Strip {left} {right}", "bytes", norm({"type": "Strip", "strip_left": left, "strip_right": right})
    yield "normalizer Replace regex", "bytes", norm({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "_"})
    yield "normalizer Replace string", "bytes", norm({"type": "Replace", "pattern": {"String": "a."}, "content": "[]"})
    yield "normalizer Prepend", "bytes", norm({"type": "Prepend", "prepend": ">>"})
    yield "normalizer ByteLevel", "bytes", {"normalizer": {"type": "ByteLevel"}, "pre_tokenizer": None}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield f"Split regex {behavior}", "bytes", pre(split({"Regex": r"[-\s]|\d"}, behavior))
        yield f"Split regex {behavior} inverted", "bytes", pre(split({"Regex": r"\w+"}, behavior, True))
        yield f"Split string {behavior}", "bytes", pre(split({"String": "--"}, behavior))
        yield f"Punctuation {behavior}", "bytes", pre({"type": "Punctuation", "behavior": behavior})
    yield "Split empty matches", "bytes", pre(split({"Regex": r"a*"}, "Isolated"))
    yield "Split lookbehind", "bytes", pre(split({"Regex": r"(?<=[a-z])(?=[A-Z])"}, "MergedWithNext"))
    yield "Split gpt4", "bytes", pre(split({"Regex": GPT4}, "Isolated"))
    yield "Digits together", "bytes", pre({"type": "Digits", "individual_digits": False})
    yield "Digits alone", "bytes", pre({"type": "Digits", "individual_digits": True})
    yield "Whitespace", "bytes", pre({"type": "Whitespace"})
    yield "WhitespaceSplit", "bytes", pre({"type": "WhitespaceSplit"})
    yield "BertPreTokenizer", "bytes", pre({"type": "BertPreTokenizer"})
    yield "CharDelimiterSplit", "bytes", pre({"type": "CharDelimiterSplit", "delimiter": "-"})
    yield "FixedLength", "bytes", pre({"type": "FixedLength", "length": 3})
    yield "ByteLevel prefix space and regex", "bytes", {"pre_tokenizer": {**by, "add_prefix_space": True, "use_regex": True}, "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": True}}
    yield "Digits then ByteLevel prefix space", "bytes", {"pre_tokenizer": seq("pretokenizers", {"type": "Digits", "individual_digits": True}, {**by, "add_prefix_space": True})}
    yield "no pre-tokenizer no decoder", "bytes", {"pre_tokenizer": None, "decoder": None}
    yield "template on both sides", "bytes", {"post_processor": seq("processors", by, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "S", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "E", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"S": {"id": "S", "ids": [0, 0], "tokens": ["<s>", "<s>"]}, "E": {"id": "E", "ids": [1], "tokens": ["</s>"]}}})}
    yield "BertProcessing", "bytes", {"post_processor": {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}}
    yield "ignore_merges", "bytes", {"model": {"ignore_merges": True, "merges": []}, "pre_tokenizer": {**by, "use_regex": True}}
    tokens = [added(0, "<s>", special=True), added(1, "</s>", special=True), added(420, "<both>", lstrip=True, rstrip=True), added(421, "<left>", lstrip=True), added(422, "<right>", rstrip=True, special=True), added(423, "cat", single_word=True), added(424, "The Cat", normalized=True), added(425, "HELLO", normalized=True, single_word=True, lstrip=True), added(426, "<|end|>", special=True), added(427, "<|end|>>"), added(428, "caf\u00e9", normalized=True), added(429, "<S>", normalized=True, special=True)]
    yield "added tokens", "bytes", {"added_tokens": tokens, **norm({"type": "Lowercase"}, {"type": "NFD"})}
    yield "added tokens without normalizer", "bytes", {"added_tokens": tokens[:-1]}
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            yield f"Metaspace {scheme} split {cut}", "pieces", {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": cut}, "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": cut}}
    yield "Metaspace behind Strip and Digits", "pieces", {**norm({"type": "Strip", "strip_left": True, "strip_right": False}), "pre_tokenizer": seq("pretokenizers", {"type": "Digits", "individual_digits": True}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True})}
    yield "spaces replaced, split at spaces", "pieces", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, "pre_tokenizer": split({"String": " "}, "MergedWithPrevious"), "decoder": seq("decoders", {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"})}
    yield "unknown tokens fused", "pieces", {"model": {"byte_fallback": False, "fuse_unk": True}}
    yield "unknown tokens", "pieces", {"model": {"byte_fallback": False, "fuse_unk": False}}
    yield "no unknown token", "pieces", {"model": {"byte_fallback": False, "unk_token": None}}
    yield "byte fallback with missing bytes", "pieces", {"model": {"drop_bytes": True}}
    yield "end_of_word_suffix", "words", {"model": {"end_of_word_suffix": "</w>"}, "pre_tokenizer": {"type": "Whitespace"}, "normalizer": {"type": "Lowercase"}, "decoder": {"type": "BPEDecoder", "suffix": "</w>"}}
    yield "continuing_subword_prefix", "words", {"model": {"continuing_subword_prefix": "##"}, "pre_tokenizer": {"type": "WhitespaceSplit"}, "normalizer": None, "decoder": None}
    yield "decoder Replace regex behind Fuse", "pieces", {"decoder": seq("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "\u2581+"}, "content": " "})}
    yield "decoder Replace string behind Fuse", "pieces", {"decoder": seq("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "\u2581t"}, "content": "\u2581T"}, {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "})}
    yield "decoder Strip in tokens", "pieces", {"decoder": seq("decoders", {"type": "Strip", "content": "\u2581", "start": 2, "stop": 0}, {"type": "ByteFallback"})}


def words_base(spec):
    """A model whose tokens carry the prefix or suffix of words, hand-made."""
    suffix, prefix = spec.get("end_of_word_suffix", ""), spec.get("continuing_subword_prefix", "")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = ["<unk>"] + list(letters) + [x + suffix if suffix else prefix + x for x in letters]
    wanted = [("t", "h"), ("th", "e"), ("c", "a"), ("a", "t"), ("ca", "t"), ("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("o", "r"), ("w", "or")]
    merges = []
    for left, right in wanted:
        pairs = [(left, right), (left, right + suffix)] if suffix else [(left, prefix + right), (prefix + left, prefix + right)]
        for a, b in pairs:
            merged = a + b[len(prefix):]
            if a in vocab and b in vocab:
                merges.append(f"{a} {b}")
                if merged not in vocab:
                    vocab.append(merged)
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(0, "<unk>", special=True)], "post_processor": None,
            "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {token: i for i, token in enumerate(vocab)}, "merges": ["#version: 0.2"] + merges}}


def compose(base, parts):
    if base == "words":
        spec = words_base(parts["model"])
    else:
        spec = json.loads((HERE / f"base_{base}.json").read_text())
    for key, value in parts.items():
        if key != "model":
            spec[key] = value
            continue
        if value.get("drop_bytes"):
            spec["model"]["vocab"] = {t: i for t, i in spec["model"]["vocab"].items() if t not in ("<0xE6>", "<0xF0>")}
        spec["model"].update({k: v for k, v in value.items() if k != "drop_bytes"})
    return spec


def golden(text_of_tokenizer, strings, n_random, seed):
    """For every string: ids, and where they differ ids without added tokens parsed and with the template.

    Where the library panics (it does on some rewritten texts) there is nothing to compare with."""
    rng = random.Random(seed)
    tokenizer = Tokenizer.from_str(text_of_tokenizer)
    out = {"encode": [], "decode": []}
    for i in strings:
        try:
            out["encode"].append(encode_case(tokenizer, i))
        except BaseException as panic:
            if type(panic).__name__ != "PanicException":
                raise
            tokenizer = Tokenizer.from_str(text_of_tokenizer)  # its locks are poisoned
    bound = max(tokenizer.get_vocab(True).values()) + 1
    for _ in range(n_random):
        ids = [rng.randrange(min(bound, rng.choice([300, bound + 5]))) for _ in range(rng.randint(1, 12))]
        out["decode"].append({"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False), "skipped": tokenizer.decode(ids, skip_special_tokens=True)})
    return out


def encode_case(tokenizer, i):
    text = ALL[i]
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    full = tokenizer.encode(text, add_special_tokens=True).ids
    tokenizer.encode_special_tokens = True
    unparsed = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    case = {"i": i, "ids": ids}
    if full != ids:
        n_before = next(k for k in range(len(full) + 1) if full[k:k + len(ids)] == ids)
        case["before"], case["after"] = full[:n_before], full[n_before + len(ids):]
    if unparsed != ids:
        case["unparsed"] = unparsed
    decoded = tokenizer.decode(full, skip_special_tokens=False)
    skipped = tokenizer.decode(full, skip_special_tokens=True)
    if decoded != text:
        case["decoded"] = decoded
    if skipped != decoded:
        case["skipped"] = skipped
    return case


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


PLAIN = list(dict.fromkeys(plain_strings()))
FUZZ = list(fuzz_strings(200))
SAMPLES = list(unicode_samples())
ALL = PLAIN + FUZZ + SAMPLES


def main():
    write(HERE / "strings.json", ALL)
    train(HERE / "base_bytes.json", pieces=False)
    train(HERE / "base_pieces.json", pieces=True)
    n_plain, n_fuzz = len(PLAIN), len(FUZZ)
    specs, goldens = [], []
    for k, (name, base, parts) in enumerate(variants()):
        spec = compose(base, parts)
        strings = [i for i in range(n_plain) if len(ALL[i]) < 80 and (i + k) % 5 == 0 or "<" in ALL[i] and k % 3 == 0] + [n_plain + i for i in range(n_fuzz) if (i + k) % 12 == 0]
        if base == "words":
            strings += [i for i in range(n_plain) if "hello" in ALL[i] or "the" in ALL[i]]
        if name.startswith("added"):
            ALL_EXTRA = ["x  <both>  y", "x  <left>  y", "x  <right>  y", "a<both><left><right>b", "  <both>  <both>  ", "cat", "a cat.", "concat", "cats", "cat cat", "cat_", "\u0301cat", "the cat", "The Cat", "THE CAT SAT", "hello", "x hello y", "xHELLO", "  Hello!", "<|end|>>", "a<|end|>>b", "Caf\u00e9 CAFE\u0301 cafe", "<S><s>", "<right>   <left>", "<right> <both>", "\u3000<left>\u00a0<right>\u2003"]
            for text in ALL_EXTRA:
                if text not in ALL:
                    ALL.append(text)
                strings.append(ALL.index(text))
        if name.startswith("normalizer"):
            strings += [n_plain + n_fuzz + i for i in range(len(SAMPLES)) if (i + k) % 3 == 0 or i > len(SAMPLES) - 10]
        if name.startswith(("Digits alone", "Punctuation Isolated", "Whitespace", "BertPre")):
            strings += [n_plain + n_fuzz + i for i in range(len(SAMPLES)) if i % 4 == 0]
        specs.append({"name": name, "spec": spec if base == "words" else None, "base": base, "parts": parts})
        goldens.append({"name": name, **golden(json.dumps(spec), sorted(set(strings)), 30, k)})
    write(HERE / "strings.json", ALL)
    write(HERE / "variants.json", specs)
    write(HERE / "golden_variants.json", goldens)
    for name, path in REAL.items():
        if path.exists():
            write(HERE / f"golden_{name}.json", golden(path.read_text(), range(n_plain + n_fuzz), 120, 7))
        else:
            print(f"{path} is not there: its goldens stay as they are")


if __name__ == "__main__":
    main()
