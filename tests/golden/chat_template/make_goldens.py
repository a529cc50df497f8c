#!/usr/bin/env python3
"""Makes goldens.json for tests/worker/tokenizer_chat_template_test.cc with Jinja2 set up as transformers does.

    python3 tests/golden/chat_template/make_goldens.py [SHARED_DIR]

Needs jinja2 3.1. SHARED_DIR (default: ../shared beside the checkout) holds the template of qwen2.5; its
golden is only rewritten when it is there, and the template itself is not copied.
"""
import json
import pathlib
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SHARED = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared"
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    env.globals["raise_exception"] = raise_exception
    return env


TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "instruction tags": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
""",
    "header ids, trimmed, content set": """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>

'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>

' }}{% endif %}""",
    "model role, no system": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "namespace, macro and whitespace": """{#- a comment -#}
{%- macro turn(role, text, close='<|end|>') -%}
    <|{{ role }}|>
{{ text }}{{ close }}
{% endmacro -%}
{%- set ns = namespace(n_users=0, last='') -%}
{% for m in messages if m.role != 'ignored' %}
  {% if m.role == 'user' %}
    {% set ns.n_users = ns.n_users + 1 %}
  {% endif %}
  {% set ns.last = m.role %}
{{ turn(m.role, m.content) }}
{%- endfor %}
{%- if add_generation_prompt and ns.last != 'assistant' -%}
    <|assistant|>
{% endif %}
""",
    "thinking removed from earlier answers": """{{ bos_token }}{%- for m in messages %}
{%- if m.role == 'assistant' and '</think>' in m.content %}
{%- set text = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- else %}{% set text = m.content %}{% endif %}
{{- '<|' ~ m.role ~ '|>' ~ text ~ eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}""",
    "vicuna": "{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] | trim + ' ' %}{% set rest = messages[1:] %}{% else %}{% set sys = 'A chat.' + ' ' %}{% set rest = messages %}{% endif %}{{ bos_token + sys }}{% for m in rest %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'].strip() + ' ' }}{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'].strip() + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "not in pieces": "{% for m in messages %}{{ loop.length }}:{{ m.content }};{% endfor %}",
    "raw, filters and blocks": "{% raw %}{{ x }}{% endraw %}{% set t %}{% for m in messages %}{{ m.content }}|{% endfor %}{% endset %}{{ t | upper | length }}{% filter lower %}ABC{{ t }}{% endfilter %}{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{% if loop.index > 2 %}{% break %}{% endif %}{{ loop.revindex }}{% else %}none{% endfor %}",
}
CONVERSATIONS = [
    [("user", "hi")],
    [("user", "hi"), ("assistant", "hello")],
    [("system", "Be brief."), ("user", "hi")],
    [("system", " Be brief. "), ("user", " hi\n"), ("assistant", "<think>\nhm</think>\n\nhello "), ("user", "caf\u00e9 \U0001f600 <b> & 'q' \"d\" {{ x }} {% y %}")],
    [("assistant", "first"), ("user", "second")],
    [("user", ""), ("assistant", ""), ("user", "x\n\ny")],
    [("tool", "{}")],
    [],
]
SNIPPETS = [
    "{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** 3 ** 2 }} {{ 1.5 + 1 }} {{ 6 / 3 }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 }} {{ 'ab' * 3 }} {{ 'a' 'b' }} {{ [1, 'x', none, true, 1.0, [2], {'k': 'v'}] }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' in 'cat' }} {{ 'x' not in ['y'] }} {{ 'k' in {'k': 1} }} {{ not 1 == 2 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ true == 1 }}",
    "{{ '' or 'x' }} {{ 'a' and 'b' }} {{ none or 0 }} {{ [] and 1 }} {{ 'yes' if 1 else 'no' }} {{ 'yes' if 0 }} {{ 'a' if 0 else 'b' if 0 else 'c' }}",
    "{{ missing }}|{{ missing is defined }}|{{ missing is none }}|{{ missing | default('d') }}|{{ '' | default('d') }}|{{ '' | default('d', true) }}|{{ missing | length }}{% for x in missing %}x{% endfor %}",
    "{{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[5] is defined }} {{ messages | length }} {{ messages[0].nothing }}|{{ messages[0].get('role') }} {{ messages[0].get('x', 'y') }}",
    "{{ 'hello'[1:3] }} {{ 'hello'[::-1] }} {{ 'hello'[-3:] }} {{ [1,2,3,4][1:] }} {{ [1,2,3,4][:-1] }} {{ [1,2,3,4][::2] }} {{ 'h\u00e9llo'[1] }} {{ 'abc'[10:] }}",
    "{{ '  x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a-b-c'.split('-', 1) }}|{{ 'a-b-c'.rsplit('-', 1) }}|{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'abc'.upper() }}|{{ 'a b'.title() }}|{{ 'aXbX'.replace('X', '-') }}|{{ 'abcb'.find('b') }}|{{ 'abcb'.rfind('b') }}|{{ 'a.b.a'.count('a') }}|{{ '\\n'.join(['a', 'b']) }}|{{ 'a\nb\r\nc'.splitlines() }}",
    "{{ ' x ' | trim }}|{{ 'ab' | upper }}|{{ 'AB' | lower }}|{{ 'aB c' | title }}|{{ 'aB' | capitalize }}|{{ [1,2] | join(', ') }}|{{ [3,1,2] | sort }}|{{ [1,2,3] | first }}|{{ [1,2,3] | last }}|{{ 'abc' | reverse }}|{{ 'abc' | list }}|{{ '3' | int + 1 }}|{{ '3.5' | float }}|{{ 'x' | int(7) }}|{{ 5 | string ~ '!' }}|{{ -3 | abs }}|{{ [1,2,3] | sum }}|{{ [2,1] | max }}|{{ [2,1] | min }}|{{ 2.5 | round }}|{{ ['a','b','a'] | unique | list }}|{{ 'a b' | replace(' ', '_') }}",
    "{{ messages | map(attribute='role') | join(',') }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | rejectattr('role', 'eq', 'user') | list }}|{{ ['a', ''] | select | list }}|{{ [1,2,3,4] | select('odd') | list }}|{{ [1,2,3] | reject('gt', 1) | list }}|{{ ['a','b'] | map('upper') | list }}",
    "{{ messages[0] | tojson }}|{{ [1, 'a\"b\\\\\\n\u00e9', none, true, 1.5, {}] | tojson }}|{{ {'a': [1, 2], 'b': {}} | tojson(indent=2) }}|{{ [] | tojson(indent=4) }}|{{ '<&>' | tojson }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}|{% for k in {'x': 1} %}{{ k }}{% endfor %}|{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}|{{ {'a': 1}.keys() | list }}|{{ {'a': 1}.values() | list }}|{% for a, b in {'p': 'q'} | items %}{{ a }}{{ b }}{% endfor %}",
    "{% for i in range(3) %}{{ i }}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}{% for i in [] %}x{% else %}empty{% endfor %}{% for i in range(4) %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + 10 %}{{ x }};{% endfor %}{{ x }}{% if true %}{% set x = 5 %}{% endif %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = [1, 2] %}{{ c }}",
    "{% set ns = namespace(found=false) %}{% for i in [1, 2] %}{% if i == 2 %}{% set ns.found = i %}{% endif %}{% endfor %}{{ ns.found }}",
    "{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}{% macro g() %}<{{ caller() }}>{% endmacro %}{% call g() %}in{% endcall %}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "a\n  {% if true %}\n    b\n  {% endif %}\nc\n",
    "a\n  {%- if true -%}\n    b\n  {%- endif -%}\nc\n\n",
    "  {{ 1 }}  \n  {# comment #}\nx {# c #} y\n  {%+ if true %}z{% endif +%}\nw\n",
    "{{- 'a' -}}   b   {{- 'c' }}\n\n{{ 'd' }}\n",
    "{{ 'it\\'s' }} {{ \"q\\\"\\t\\u00e9\\x41\" }} {{ '\\\\n' }} {{ '{{' }} {{ {'a': {'b': 1}} }} {{ {'a': {'b': 1}}.a.b }}",
    "{{ 1 is number }} {{ 'a' is string }} {{ none is none }} {{ [] is iterable }} {{ {} is mapping }} {{ true is boolean }} {{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 1 is not none }} {{ 'a' is in ['a'] }} {{ 1 is integer }} {{ 1.0 is float }} {{ [] is sequence }} {{ raise_exception is callable }} {{ true is true }} {{ false is false }}",
    "{{ true }} {{ True }} {{ none }} {{ None }} {{ false and missing.x }}",
    "{{ (1, 2) | length }} {{ (1,) | length }} {{ (1) }} {{ [1, 2,] }} {{ {'a': 1,} }}",
    "{{ 'A\u00c9\u00df\u0130' | lower }} {{ 'stra\u00dfe' | upper }} {{ '\u00e9t\u00e9' | capitalize }} {{ '\u6f22\u5b57' | length }} {{ '\u3000x\u00a0' | trim }}",
    "{{ 'x' | indent }}|{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}",
    "{{ messages[0].content | length > 1 }} {{ messages | length - 1 }} {{ -1 | abs }} {{ not messages | length == 0 }}",
    "{{ missing.attribute }}", "{{ none + 1 }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ missing() }}", "{{ 'a' < 1 }}", "{{ raise_exception('no: ' ~ 1) }}", "{{ none | length }}", "{% for x in none %}{% endfor %}", "{{ 'a'.nothing() }}",
    "{% if %}", "{{ 1 +", "{% for x in y %}", "{% endif %}", "{{ 'a }}", "{# x", "{{ x | nothing }}", "{% unknown %}", "{{ ] }}", "{% break %}",
]


def render(env, source, messages, generate):
    try:
        template = env.from_string(source)
        return {"text": template.render(messages=[{"role": r, "content": c} for r, c in messages], tools=None, documents=None, add_generation_prompt=generate, **VARIABLES)}
    except Exception as error:
        return {"error": str(error)}


def cases(env, source):
    return [{"messages": c, "generate": g, **render(env, source, c, g)} for c in CONVERSATIONS for g in (False, True)]


def main():
    env = environment()
    path = HERE / "goldens.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    out = {"variables": VARIABLES, "templates": [{"name": n, "source": s, "cases": cases(env, s)} for n, s in TEMPLATES.items()],
           "snippets": [{"source": s, **render(env, s, CONVERSATIONS[3], False)} for s in SNIPPETS], "files": old.get("files", {})}
    for name, source_path in {"lexico-20m": ROOT / "models/lexico-20m/tokenizer_config.json", "qwen2.5": SHARED / "tokenizers/qwen2.5/chat_template.jinja"}.items():
        if source_path.exists():
            text = source_path.read_text()
            out["files"][name] = cases(env, json.loads(text)["chat_template"] if source_path.suffix == ".json" else text)
    path.write_text(json.dumps(out, ensure_ascii=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
