"""Inputs of `snippets.json`: small templates, grouped by the feature they cover. Imported by `templates.py`.

Append new cases at the end of a group: names are the group and a number.
"""

CASES = []


def expressions(group, text, **context):
    """Adds one case `{{ EXPRESSION }}` per line of `text`."""
    for line in text.strip().split("\n"):
        CASES.append((group, "{{ " + line.strip() + " }}", context))


def template(group, *sources, **context):
    """Adds one case per source."""
    for source in sources:
        CASES.append((group, source, context))


# Whitespace control

template(
    "whitespace",
    "",
    "\n",
    "a\n",
    "a\n\n",
    "a\r\n",
    "a\r",
    "a\n\r",
    "a\r\nb\rc\nd",
    "{% if true %}\n  x\n{% endif %}\n",
    "{% if true %}\n\n  x\n\n{% endif %}\n\ny",
    "a  {%- if true -%}  b  {%- endif -%}  c",
    "a\n \t {%- if true %}\n b{% endif -%} \n\t c",
    "  {% if true %}x{% endif %}",
    "  {%+ if true %}x{% endif %}",
    "\t{% if true %}x\t{% endif %}",
    "a  {% if true %}x{% endif %}",
    "a\n  {% if true %}x\n  {% endif %}\n  b",
    "a\n  {%+ if true +%}\nx\n  {%+ endif +%}\n  b",
    "{% if true +%}\nx{% endif %}",
    "{% if true %}  {% endif %}x",
    "{% if true %}  {% if true %}x{% endif %}{% endif %}",
    "{% if true %}\n  {% if true %}\n    x\n  {% endif %}\n{% endif %}\n",
    "{{ 1 }}  {% if true %}x{% endif %}",
    "  {{ 1 }}\n  {{ 2 }}\n",
    "a \n {{- 1 -}} \n b",
    "a {{+ 1 }} b",
    "{{ 1 -}}\n\n\n{{- 2 }}",
    "{{ 1 }}\n",
    "{{ 1 }}\n\n",
    "x {# c #}\ny",
    "  {# c #}\ny",
    "x  {# c #}  y",
    "x  {#- c -#}  y",
    "x\n  {#+ c +#}\ny",
    "x\n  {# a\n b\n #}\n  y",
    "{# {{ x }} {% if %} #}z",
    "{##}z",
    "{#-#}z",
    "{%if true%}x{%endif%}",
    "{%-if true-%} x {%-endif-%}",
    "{% if true %}\r\nx\r\n{% endif %}\r\ny",
    "{% if true %}\rx\r{% endif %}\ry",
    "a\r\n  {%- if true -%}\r\n x{% endif %}",
    "{{ 'a\r\nb\rc' }}",
    "{{ 'a\nb'|length }}",
    "{% if true %} \nx{% endif %}",
    "a\n\u00a0{% if true %}x{% endif %}",
    "a\n\u3000\x1f\x85{% if true %}x{% endif %}",
    "a\n\u200b{% if true %}x{% endif %}",
    "a\u00a0\u2028{%- if true -%}\u00a0\x1c\u2029b{% endif %}",
    "a\x0b\x0c{{- 1 -}}\x0c\x0bb",
    "{% if true %}\x0bx{% endif %}",
    "{% if true %}\u2028x{% endif %}",
    "a\x0b  {% if true %}x{% endif %}",
    "{% if true %}a{% endif %}\n{% if true %}b{% endif %}\n\n{% if true %}c{% endif %}",
    "{% for i in [1, 2] %}\n{{ i }}\n{% endfor %}\n",
    "{% for i in [1, 2] -%}\n{{ i }}\n{%- endfor %}\n",
    "{% set x = 1 %}\n{% set y = 2 %}\n\n{{ x }}{{ y }}",
    "{%- set x = 1 %}\n{{- x }}",
    "{% set\n  x\n  =\n  1\n%}\n{{\n x\n}}",
    "{% if\u00a0true %}x{% endif %}",
    "a {%- endif %}",
    "{{- 'x' }}",
    "{{ 'x' -}}",
    " {{- ' x ' -}} ",
    "\n\n{%- if true %}x{% endif %}",
    "{ { } } {x} {'a': 1} % %% # ##",
    "a } b %} c #} d }} e",
    "{{ {'a': {'b': 1}} }}",
    "{{ {'a': {}}['a'] }}",
    "{% if {'a': 1}['a'] %}x{% endif %}",
    "{{ '{{' }}{{ '}}' }}{{ '{%' }}{{ '%}' }}{{ '{#' }}{{ '#}' }}",
    "\ufeffx",
    "# not a line statement\n## not a comment\n",
)
template(
    "raw",
    "{% raw %}{{ x }}{% endraw %}",
    "a {%- raw -%}  x  {%- endraw -%} b",
    "  {% raw %}\n x\n  {% endraw %}\n y",
    "  {%+ raw %}\n x {%+ endraw +%}\n y",
    "{% raw %}{% if %}{# c #}{{{% endraw %}",
    "{%raw%}x{%endraw%}",
    "{% raw %}\n{% endraw %}",
    "{% raw %}x",
    "{% raw %}{% raw %}{% endraw %}",
)
template(
    "syntax-errors",
    "{{ 1",
    "{% if true %}",
    "{% if true %}{% endfor %}",
    "{# c",
    "{{ }}",
    "{{ 1 2 }}",
    "{{ a b }}",
    "{% nosuchtag %}",
    "{% do 1 %}",
    "{% trans %}x{% endtrans %}",
    "{% endif %}",
    "{{ 'abc }}",
    "{{ (1 }}",
    "{{ [1, 2 }}",
    "{{ (1] }}",
    "{{ 1) }}",
    "{{ x|nosuchfilter }}",
    "{{ x is nosuchtest }}",
    "{% if false %}{{ x|nosuchfilter }}{% endif %}z",
    "{% if false %}{{ x is nosuchtest }}{% endif %}z",
    "{{ x if x is defined else x|nosuchfilter }}",
    "{{ $ }}",
    "{{ a ? b : c }}",
    "{{ a && b }}",
    "{{ !a }}",
    "{{ `a` }}",
    "{% set 1 = 2 %}",
    "{% set none = 2 %}",
    "{% set true = 2 %}",
    "{% for loop in [1] %}{{ loop }}{% endfor %}",
    "{% for x in %}{% endfor %}",
    "{% else %}",
    "{% break %}",
    "{% continue %}",
    "{% if true %}{% elif %}{% endif %}",
    "{% if true %}{% else %}{% else %}{% endif %}",
    "{{ f(a=1, 2) }}",
    "{{ f(*a, **b) }}",
    "{{ lambda x: x }}",
    "{{ [x for x in y] }}",
    "{{ x := 1 }}",
    "{{ 1 not 2 }}",
    "{{ a.1b }}",
    "{{ a. }}",
    "{{ a[] }}",
    "{{ a[1:2:3:4] }}",
    "{% macro %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m(a, a) %}{{ a }}{% endmacro %}{{ m(1) }}",
    "{% block a %}{% endblock %}{% block a %}{% endblock %}",
    "{% set x %}a",
    "{% set x += 1 %}",
    "{% set x = 1, %}{{ x }}",
    "{% set a.b = 1 %}",
    "{% set a['b'] = 1 %}",
    "{% include 'a' %}",
    "{% extends 'a' %}",
    "{% import 'a' as b %}",
    "{% include 'a' ignore missing %}x",
    "{% block a %}x{% endblock %}y",
    "{% block a %}x{{ self.a is defined }}{% endblock a %}{{ self.a() }}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}{{ '<' }}",
    "{% end if %}",
    "{%- if true -%}x{%- end -%}",
    "{{ 1;2 }}",
    "{{ a\\b }}",
    "{{ \u00e9 }}|{{ \u00e9\u00e8_1 }}",
    "{{ \u00b2 }}",
)

# Literals and printing

expressions(
    "literals",
    r"""
1_000
0x1F
0X1f
0xF_F
0b101
0B1_1
0o17
0O17
00
012
1__0
1_
0x
123456789012345678901234567890
1.5
1_0.5
1.
.5
1e3
1E3
1e-3
1.5e+2
1e16
1e15
123456789012345680.0
1e-4
1e-5
1e-7
0.1
0.1 + 0.2
100.0
1e22
1e23
1.7976931348623157e308
1e999
-1e999
1e999 - 1e999
5e-324
-0.0
0.0
-0
1/3
2/3
1e100
1.0e1
1e
1e1_0
9007199254740993
9007199254740993.0
1.5.real
1 .real
(1).real
true
True
false
False
none
None
TRUE
NONE
null
'a' 'b'
'a' "b" 'c'
'a' 'b' ~ 'c' 'd'
''
""
'a\nb'
'a\tb\rc'
'\\'
'\''
"\""
'"'
"'"
'\x41\x7e'
'\u00e9\u20ac'
'\U0001F980'
'\N{BULLET}'
'\101\7'|length
'\a\b\f\v\0'|tojson
'\q\d\{'
'\é'
'\x4'
'\u12'
'\N{NO SUCH NAME}'
'é漢🦀'
'é漢🦀'|length
'\\n'
'\\\n'|tojson
[]
()
{}
[1, 2,]
(1,)
1, 2
1,
(1)
(1, 2)
[1, [2, (3,)], {'a': (4, 5)}]
{'a': 1, 'b': 2,}
{'a': 1, 'a': 2}
{1: 'a', none: 'b', true: 'c', 1.5: 'd', (1, 2): 'e'}
{true: 'a', 1: 'b', 1.0: 'c'}
{a: 1}
{'a' 'b': 1}
{[1]: 2}
{**{'a': 1}}
[*[1]]
""",
)
template("literals", "{{ 'a\\\nb' }}", "{{ 'a' \n 'b' }}")
expressions(
    "printing",
    r"""
v
[v]
v ~ ''
v|string
v|tojson
v|list
v|pprint
""",
    v=[None, True, False, 1, -1, 1.0, 1.5, 1e16, 1e-7, 1e22, -0.0, 12345678901234567890, "a", "it's", 'say "hi"', "it's \"q\""],
)
expressions(
    "printing",
    r"""
none
[none, true, false, 1.0]
[undefined_name]
{'a': undefined_name}
(undefined_name,)
['a\nb\tc\rd\\e']
['\x00\x1b\x7f\x80\x9f\xa0\xad']
['é', '漢', '🦀', '\u200b', '\u2028', '\u3000', '\ufeff', '\u0301', '\u00ad', '\ue000', '\U000e0001', '\U000f0000']
["'"]
['"']
["'\""]
['\'\n']
{'k': "it's"}
[[], (), {}, '']
[1e16, 1e15, 1e-5, 1e-4, 0.1, 100.0, 1e999, -1e999, 1e999 - 1e999, -0.0]
[1e999 - 1e999]|tojson
[1e999, -1e999]|tojson
{'a': (1, 2)}|string
(1, (2,), [3])
range(3)
range(1, 10, 2)
[range(0)]
{'a': 1}.items()
{'a': 1}.keys()
{'a': 1}.values()
{}.items()
'%s' % {'a': 1}.keys()
range is callable
namespace(a=1, b='x')
namespace()
[namespace(a=[1])]
1 == 1
[1 == 1.0]
'a' ~ true ~ none ~ 1.0 ~ [1] ~ (1,) ~ {'a': 'b'}
1 ~ 2
'' ~ undefined_name
1 ~ -1
joiner
cycler
'a'|escape
['<a>'|escape]
['<a>'|escape, 'b'|safe]
raise_exception('boom')
raise_exception(1)
raise_exception()
raise_exception('a', 'b')
raise_exception(message='named')
raise_exception('')
raise_exception(none)
raise_exception('line 1\nline 2 "quoted" é')
loop
self
caller
varargs
""",
)

# Operators

expressions(
    "arithmetic",
    r"""
1 + 2 * 3
(1 + 2) * 3
7 / 2
6 / 2
7 // 2
-7 // 2
7 // -2
-7 % 3
7 % -3
-7 % -3
7.5 // 2
-7.5 // 2
-7.5 % 2
7 % 2.5
5.0 % 3
-0.0 + 0
1 / 0
1 // 0
1 % 0
1.0 / 0
1.0 // 0
1.0 % 0
0 / 5
2 ** 3
2 ** 3 ** 2
-2 ** 2
2 ** -1
2 ** 0.5
2.0 ** 3
2 ** 100
0 ** 0
0 ** -1
4 ** -0.5
10 ** 20
- 5
--5
+5
+-+5
-true
+true
-'a'
+'a'
not 1
not not 1
true + true
true * 3
true / 2
true == 1
1 - 2 - 3
100 / 10 / 2
100 // 7 % 4
2 * 3 ** 2
-2 * -3
1 - -1
9007199254740992 + 1
9223372036854775807 + 1
9223372036854775807 * 9223372036854775807
-9223372036854775808 - 1
-9223372036854775808 // -1
1e308 * 10
1 + 1.0
3 * 1.5
10 - 0.1
1.1 * 3
1.1 + 2.2
3.0 * 2
10 / 4 * 2
'a' + 'b'
'a' + 1
1 + 'a'
'a' + none
none + 1
'a' * 3
3 * 'ab'
'a' * 0
'a' * -1
'a' * 1.5
'a' * 'b'
'a' - 'b'
'a' / 2
[1] + [2]
[1] + (2,)
(1,) + (2,)
[1, 2] * 2
(1,) * 3
[1] * -1
[1] - [1]
{'a': 1} + {'b': 2}
{'a': 1} | {'b': 2}
'%s' % 'a'
'%s and %s' % ('a', 'b')
'%d' % 3.7
'%5.2f|%-5s|%05d|%+d|%x|%X|%o|%e|%g|%%|%c|%r' % (3.14159, 'ab', 42, 7, 255, 255, 8, 12345.678, 0.0001, 65, "it's")
'%(a)s-%(b)d' % {'a': 'x', 'b': 2}
'%s' % [1, 2]
'%s' % (1,)
'%s %s' % ('a',)
'%s' % ('a', 'b')
'%d' % 'a'
'%s' % none
'no format' % ()
'no format' % 'x'
'%s' % true
'%i' % true
'%.3s|%10.3s|' % ('abcdef', 'abcdef')
'%q' % 1
'%*d' % (5, 42)
'% d' % 5
'%#x' % 255
'%s' % {'a': "b'c"}
""",
)
expressions(
    "comparison",
    r"""
1 < 2 < 3
3 > 2 > 2
1 < 3 > 2
1 == 1.0 == true
1 < 2 == true
1 == 2 != 3
'a' < 'b'
'a' < 'B'
'Z' < 'a'
'é' > 'z'
'a' == 'a'
'1' == 1
1 < 'a'
none < 1
none == none
none == false
0 == false
'' == false
[] == false
[1, 2] == [1, 2]
[1, 2] == (1, 2)
(1, 2) < (1, 3)
[1, 2] < [1]
[1, 'a'] < [2, 1]
{'a': 1} == {'a': 1.0}
{'a': 1, 'b': 2} == {'b': 2, 'a': 1}
{'a': 1} < {'b': 1}
1e999 == 1e999
(1e999 - 1e999) == (1e999 - 1e999)
1 != 1
1 <> 2
1 is 1
undefined_name == undefined_name
undefined_name == none
undefined_name == ''
undefined_name != 1
undefined_name < 1
1 > undefined_name
not 1 == 2
not (1 == 2)
1 + 1 == 2
'a' ~ 'b' == 'ab'
'a' + 'b' == 'ab'
range(3) == range(0, 3)
range(3) == [0, 1, 2]
'a' in 'abc'
'' in 'abc'
'ac' in 'abc'
'd' not in 'abc'
not 'd' in 'abc'
1 in 'abc'
none in 'abc'
none in [none]
'a' in ['a']
1 in [1.0]
true in [1]
'a' in {'a': 1}
1 in {'a': 1}
'a' in ('a',)
'a' in none
'a' in 5
'a' in undefined_name
undefined_name in 'abc'
undefined_name in ['']
undefined_name in [undefined_name]
[1] in [[1]]
[1] in {'a': 1}
'a' in 'abc' in ['abc']
2 in range(3)
1 == 1 and 2 in [2]
1 in [1] == true
9007199254740993 == 9007199254740992.0
9007199254740993 < 9007199254740992.0
""",
)
expressions(
    "logic",
    r"""
1 and 2
0 and 2
1 or 2
0 or 2
'' or 'x'
none or ''
[] or {}
[] or {} or 'z'
none and 1
undefined_name or 'd'
undefined_name and 'd'
'd' and undefined_name
not undefined_name
not ''
not 0.0
not 'False'
not [0]
not ()
not -0.0
1 or 0 and 0
(1 or 0) and 0
not 1 or 1
not 1 and 0
1 if true
1 if false
(1 if false) is defined
(1 if false) ~ 'x'
1 if 0 else 2
1 if 0 else 2 if 0 else 3
(1 if 1 else 2) + 1
1 + 1 if 0 else 5
'a' if x is defined else 'b'
[1 if false, 2]
'x' ~ ('a' if true else 'b') ~ 'y'
'x' ~ 'a' if true else 'b' ~ 'y'
1 if not 0 else 2
true and raise_exception('evaluated')
false and raise_exception('evaluated')
1 if true else raise_exception('evaluated')
1|string + 'a'
1 + 2|string
-1|abs
(-1)|abs
-5|string
'a' ~ 1 + 2
'a' ~ 2 * 3
1 ~ 2 + 3 ~ 4
2 * 3 ~ 4
'abc'|upper ~ 'd'|upper
'a,b'.split(',')|join('-')|upper
not 'a'|length == 1
1 + 1 is odd
2 * 2 is number
not 1 is odd
1 is odd and 2 is even
1 is not odd
not 1 is not odd
1 is odd is true
2 is even ~ 'x'
""",
)
expressions(
    "subscripts",
    r"""
s[0]
s[-1]
s[1:3]
s[:2]
s[2:]
s[:-1]
s[-2:]
s[::-1]
s[::2]
s[1::2]
s[4:1:-1]
s[100:]
s[:100]
s[-100:2]
s[3:1]
s[::0]
s[100]
s[-100]
s[100] is defined
s['0']
s['upper'] is callable
s[1.0]
s[none:none]
s[none]
s[true]
u[1]
u[::-1]
u[1:3]
l[0]
l[-1]
l[1:]
l[::-1]
l[:2]
l[5]
l[5] is defined
l[-6]
l[5].x
l['a']
l[0:1]
l[undefined_name]
l[:undefined_name]
l.0
l.1
m.n.0
t[1]
t[::-1]
t[:1]
t[0:0]
m.a
m['a']
m.items is callable
m['items'] is callable
m['get']
m.get is callable
m.keys is callable
m['keys']
m.values is callable
m.values is string
m.nokey
m['nokey']
m.nokey is defined
m.n[0]
m['n'][-1]
m.n[-1].x
m['n']['x']
m.length
m[1]
m['1']
m[none]
m[[1]]
m.nokey.deep
m.nokey['deep']
m['nokey'].deep
m.get('a').x
m['a']['b']
none.x
none.x.y
none[0]
none['x']
1.x
(1).x
true.x
undefined_name.x
undefined_name['x']
undefined_name[0]
undefined_name.x is defined
undefined_name.x|default('d')
undefined_name()
undefined_name.x()
m.nokey()
m.a()
s()
s.nosuch
s.nosuch()
l.nosuch()
m.nosuch()
(1).nosuch()
none.nosuch()
'abc'['upper']()
{'items': 1}.items is callable
{'items': 1}['items']
{'a': 1}.items()
m.items()
range(5)[1]
range(5)[1:3]
range(5)[-1]
range(5)[9]
"a b".split()[0]
"a b".split()[-1]|upper
("a", "b")[0]
[1, 2, 3][0:2][1]
{'a': [1, {'b': 'c'}]}.a[1].b
s|list|first
s[0]|upper
s[1:2] ~ s[-1]
m[s[0]]
[[1, 2], [3]][0][1]
""",
    s="hello",
    u="é漢🦀z",
    l=[10, 20, 30],
    t=None,
    m={"a": "A", "n": [1, {"x": "y"}], "get": "GET", "keys": "KEYS", "1": "one", "h": "H"},
)

# Undefined values

expressions(
    "undefined",
    r"""
x
x ~ 'a'
x|length
x|string
x|list
x|join(',')
x|upper
x|trim
x|int
x|float
x|first
x|last
x|tojson
[x]|tojson
x|replace('a', 'b')
x|sort
x|reverse|list
x|sum
x|abs
x|round
x|items|list
x|dictsort
x|default
x|default('d')
x|default('d', true)
x|d('d')
''|default('d')
''|default('d', true)
''|default('d', boolean=true)
none|default('d')
none|default('d', true)
0|default('d', true)
false|default('d')
[]|default('d', true)
x|default(y)
x|default(default_value='z')
m.a|default('d')
m.b|default('d')
m.b.c|default('d')
x.y|default('d')
[]|first
[]|first|default('none')
[]|last
[]|min
[]|max
[]|first is defined
''|first
x + 1
1 + x
x + 'a'
'a' + x
x * 2
x - 1
x / 1
x // 1
x ** 2
-x
x > 1
x|map('upper')|list
x|select|list
x|groupby('a')|list
x|unique|list
x|batch(2)|list
x|slice(2)|list
x|wordcount
x|title
x|capitalize
x|indent
x|center(5)
x|escape
x|format(1)
x|attr('a')
x|urlencode
x|min
x is defined
x is undefined
x is none
x is string
x is number
x is mapping
x is sequence
x is iterable
x is callable
x is boolean
x is true
x is false
x is sameas none
x is sameas x
x is eq(x)
x is in [1]
x is odd
x is divisibleby 2
m.b is defined
m.b is none
m.b.c is defined
x.y is defined
x['y'] is undefined
x is not defined or x.y
x is defined and x.y
range(x)
range(3)[x]
dict(a=x)
namespace(a=x).a
namespace(a=1).b
namespace(a=1).b is defined
namespace(a=1).b.c
{'a': x}.a is defined
{'a': x}['a'].b
[x][0]
[x][0].b
'%s' % x
'%s' % (x,)
'{}'.format(x)
','.join([x])
'a'.replace('a', x)
'a'.startswith(x)
x.upper()
x|upper|default('e')
""",
    m={"a": 1},
)
template(
    "undefined",
    "{% for i in x %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in m.b %}{{ i }}{% endfor %}z",
    "{% for i in x.y %}{{ i }}{% endfor %}z",
    "{% if x %}a{% elif not x %}b{% endif %}",
    "{% if x.y %}a{% endif %}",
    "{% if x is defined and x.y %}a{% else %}b{% endif %}",
    "{% set y = x %}{{ y is defined }}{{ y }}",
    "{% set y = x.y %}",
    "{% set a, b = x %}",
    "{% set x = x|default('d') %}{{ x }}",
    "{% if not x is defined %}{% set x = false %}{% endif %}{{ x }}",
    "{% for k, v in x.items() %}{% endfor %}",
    "{{ x }}{% set x = 1 %}{{ x }}",
    m={"a": 1},
)

# Tests

expressions(
    "tests",
    "\n".join(
        f"{value} is {test}"
        for test in ["string", "mapping", "sequence", "iterable", "number", "integer", "float", "boolean", "none", "callable"]
        for value in ["none", "true", "1", "1.0", "'a'", "[1]", "(1,)", "{'a': 1}", "range(2)", "range", "'a'|safe", "{}.items()"]
    ),
)
expressions(
    "tests",
    r"""
true is true
1 is true
'' is false
false is false
0 is false
1 is odd
-1 is odd
2 is odd
0 is even
1.5 is odd
2.0 is even
'a' is odd
true is odd
none is even
6 is divisibleby 3
6 is divisibleby(4)
6 is divisibleby 0
7.5 is divisibleby 2.5
2 is in [1, 2]
2 is not in [1, 2]
2 in [1, 2]
'a' is in 'abc'
'a' is in({'a': 1})
1 is eq 1
1 is equalto 1.0
1 is == 1
1 is sameas 1
true is sameas true
1 is sameas true
none is sameas none
'a' is sameas 'b'
1 is ne 2
1 is lt 2
1 is lessthan 2
1 is le 1
2 is gt 1
2 is greaterthan 1
2 is ge 3
'a' is lt 1
'ABC' is upper
'AbC' is upper
'abc' is lower
'' is lower
'1' is upper
1 is upper
none is lower
'ß' is lower
'upper' is filter
'nosuch' is filter
'odd' is test
'nosuch' is test
none is filter
'<' is escaped
'<'|escape is escaped
namespace is callable
namespace() is mapping
namespace() is iterable
dict is callable
dict is iterable
cycler is callable
raise_exception is callable
strftime_now is callable
lipsum is callable
'a'.upper is callable
1 is not string
x is not defined
1 is defined
none is defined
none is undefined
1 is integer and true is not integer
1 is number and true is number
[1, 2] is eq [1, 2]
1 is eq(1) and 2 is eq(2)
1 is odd == true
3 is divisibleby 3 and 1
4 is divisibleby 2 * 3
range(3) is sequence
'a'|list is sequence
[1]|map('string') is sequence
[1]|map('string') is iterable
""",
)

# Filters

expressions(
    "filters-text",
    r"""
'  a b \n'|trim
'xxaxbxx'|trim('x')
'abcba'|trim('ab')
'  a '|trim('')
'  a '|trim(none)
'  a '|trim(chars=' ')
'\u00a0\u3000a\u2028\x1c\x1f\x85'|trim
'\u200ba\ufeff'|trim
5|trim
none|trim
[1]|trim
'aé ß'|upper
'AÉ İ'|lower
'ﬁ ŉ ǆ'|upper
'ΑΣ ΣΑΣ'|lower
'hello wORLD'|title
"it's o'neil foo-bar (baz) a_b 3rd x.y"|title
'ǆ ß ﬁne'|title
'hELLO wORLD'|capitalize
'ßa'|capitalize
'ǆa ﬁ'|capitalize
''|capitalize
1|upper
none|upper
true|lower
[1, 'a']|upper
'aaa'|replace('a', 'b')
'aaa'|replace('a', 'b', 2)
'aaa'|replace('a', 'b', count=1)
'aaa'|replace('', '-')
'aaa'|replace('a', '', 0)
'aaa'|replace('a', 'b', -1)
'aaa'|replace('a')
'aaa'|replace('a', 1)
121|replace(1, 3)
none|replace('o', '0')
'abc'|length
'abc'|count
[1, 2]|length
{'a': 1}|length
range(5)|length
(1, 2)|count
5|length
none|length
'🦀é'|length
'e\u0301'|length
'abc'|reverse
[1, 2]|reverse|list
(1, 2)|reverse|list
'é漢🦀'|reverse
{'a': 1, 'b': 2}|reverse|list
5|reverse
'abc'|list
{'a': 1}|list
5|list
none|list
'abc'|string
5|string
[1, 'a']|string
1.0|string
true|string
none|string
'a\nb\nc'|indent
'a\nb\nc'|indent(2)
'a\nb\nc'|indent(2, true)
'a\nb\nc'|indent(width=1, first=true)
'a\n\nb\n'|indent(2)
'a\n\nb\n'|indent(2, blank=true)
'a\n\nb\n'|indent(2, false, true)
'\na'|indent(2, true)
'a\nb'|indent('> ')
'a\nb'|indent('> ', true)
'a\n  \nb'|indent(2)
'a\r\nb\rc\x0bd\x85e\u2028f'|indent(1)
''|indent(2, true)
'a\n'|indent(2)
'a\n'|indent(2, true, true)
5|indent
'hello world foo bar'|wordwrap(8)
'hello world'|wordwrap(3)
'hello world'|wordwrap(3, false)
'a-b-c d'|wordwrap(3)
'a-b-c d'|wordwrap(3, break_on_hyphens=false)
'a b\n\nc d'|wordwrap(2)
'hello world foo'|wordwrap(8, wrapstring='|')
'hello   world  foo'|wordwrap(8)
'hello world  foo'|wordcount
"it's a_b c-d 3 é漢"|wordcount
''|wordcount
'hello world foo'|truncate(8)
'hello world foo'|truncate(8, true)
'hello world foo'|truncate(8, true, '..')
'hello world foo'|truncate(8, false, '')
'hello world foo'|truncate(8, false, '...', 0)
'hello'|truncate(5, leeway=0)
'hello world'|truncate(9)
'hello world'|truncate(8, leeway=0)
'hello'|truncate(3, true, '', 0)
'hello'|truncate(2)
'hello'|truncate(2, leeway=0)
'ab'|center(7) ~ '|'
'ab'|center(6) ~ '|'
'abc'|center(6) ~ '|'
'ab'|center ~ '|'
'ab'|center(1)
5|center(5)
'%s-%s'|format('a', 1)
'%(a)s'|format(a='x')
'%s'|format
'%d%%'|format(5)
'%s'|format('a', b=1)
'%.2f'|format(2.675)
'%s'|format([1])
'<a href="x">\'&'|escape
'<a>'|e
5|e
none|e
'<a>'|safe
'<a>'|safe|escape
'<a>'|escape|escape
'<a>'|forceescape
('<a>'|escape) ~ '<b>'
('<a>'|escape) + '<b>'
'<b>' + ('<a>'|escape)
('<a>'|escape)|upper
('<a>'|escape)|length
['<a>'|escape, '<b>']|join
['<a>'|escape, '<b>']|join('<')
'%s'|escape|format('<')
('<%s>'|safe) % '<'
('<a>'|escape).replace('a', '<')
('<a>'|safe)[0]
'a b/c?d=é&f'|urlencode
{'a b': 'c d', 'e': 1}|urlencode
[['a', 'b&'], ['c', 2]]|urlencode
5|urlencode
'<p>a <b>b</b>\n\n  c&amp;d</p><!-- x -->'|striptags
'a < b > c'|striptags
5|striptags
1000|filesizeformat
999|filesizeformat
1|filesizeformat
0|filesizeformat
1500000|filesizeformat
1500000|filesizeformat(true)
1024|filesizeformat(true)
1e30|filesizeformat
'1234'|filesizeformat
'http://a.b c'|urlize
{'class': 'a', 'id': none, 'n': 1}|xmlattr
[1, 'a', {'b': none}]|pprint
{'b': 1, 'a': [1, 2]}|pprint
'a'|pprint
{'a': 'x' * 50, 'b': 'y' * 50}|pprint
('a'|attr('upper'))()
{'a': 1}|attr('a')
'abc'|attr('nosuch') is defined
'abc'|attr('__class__')
""",
)
expressions(
    "filters-numbers",
    r"""
'42'|int
' 42 '|int
'+42'|int
'-42'|int
'1_000'|int
'42.9'|int
'1e3'|int
'x'|int
'x'|int(7)
'x'|int(default='d')
''|int
'0x1f'|int
'0x1f'|int(0, 16)
'1f'|int(base=16)
'101'|int(0, 2)
'0b11'|int(0, 2)
'0o17'|int(0, 8)
'z'|int(0, 36)
42.9|int
-42.9|int
true|int
none|int
none|int(3)
[1]|int
1e999|int
'1e999'|int
'nan'|int
'٤٢'|int
'123456789012345678901234567890'|int
1e20|int
'3.5'|float
' 3.5 '|float
'1e3'|float
'x'|float
'x'|float(1.5)
'x'|float(none)
'inf'|float
'-Infinity'|float
'nan'|float
'1_0.5'|float
5|float
true|float
none|float
'1e400'|float
-5|abs
(-5)|abs
(-5.5)|abs
true|abs
'a'|abs
2.5|round
3.5|round
0.5|round
-2.5|round
2.675|round(2)
1.005|round(2)
42.55|round(1)
42.55|round(1, 'floor')
42.55|round(1, 'ceil')
42.5|round(0, 'floor')
-42.5|round(method='ceil')
42|round
42|round(1)
1234|round(-2)
1250|round(-2)
1234.5|round(-2)
42.5|round|int
42.1|round(method='nosuch')
'a'|round
1e20|round
1e999|round
1e999|round(0, 'ceil')
123456789|round(2, 'floor')
[1, 2, 3]|sum
[1.5, 2]|sum
[0.1] * 10
([0.1] * 10)|sum
[]|sum
[1, 2]|sum(start=10)
['a', 'b']|sum
['a', 'b']|sum(start='')
[{'a': 1}, {'a': 2}]|sum('a')
[{'a': 1}, {'a': 2}]|sum(attribute='a', start=5)
[{'a': 1}, {}]|sum('a')
[[1], [2]]|sum(start=[])
[3, 1, 2]|min
[3, 1, 2]|max
['b', 'A', 'c']|min
['b', 'A', 'c']|max
['b', 'A', 'a']|min(case_sensitive=true)
[{'a': 2}, {'a': 1}]|min(attribute='a')
[{'a': 2}, {'a': 1}]|max(attribute='a')
'hello'|max
'hElLo'|min
[1, 'a']|max
{'b': 1, 'a': 2}|max
[1, 1.0, true]|max
[]|max is defined
5|max
""",
)
expressions(
    "filters-lists",
    r"""
[1, 2, 3]|join
[1, 2, 3]|join(', ')
[1, none, true, 1.0, 'a']|join('-')
'abc'|join('-')
{'a': 1, 'b': 2}|join(',')
users|join(', ', attribute='name')
users|join(attribute='name')
users|join(', ', 'nosuch')
users|join(', ', attribute='address.city')
[[1, 2], [3, 4]]|join(',', attribute=1)
[1, 2]|join(3)
5|join
none|join(',')
[1, 2]|first
(1, 2)|first
'abc'|first
{'a': 1}|first
range(3)|first
[1, 2]|last
'abc'|last
{'a': 1, 'b': 2}|last
range(3)|last
5|first
5|last
[1, 2]|map('string')|last
users|map(attribute='name')|list
users|map(attribute='name')|join(',')
users|map(attribute='nosuch')|list
users|map(attribute='nosuch', default='?')|list
users|map(attribute='age', default=0)|list
users|map(attribute='address.city', default='?')|list
users|map(attribute='address.city')|list
users|map('first')|list
['a', 'b']|map('upper')|list
['a', 'b']|map('replace', 'a', 'x')|list
[' a ', 'b ']|map('trim')|join('|')
[1, 2]|map('string')|map('center', 3)|list
[[1, 2], [3]]|map('length')|list
[[1, 2], [3]]|map('join', '+')|list
[[1, 2], [3]]|map(attribute=0)|list
[[1, 2], [3]]|map(attribute=1, default=9)|list
['a']|map('nosuch')|list
['a']|map|list
['a']|map()|list
[1, 2]|map(foo='bar')|list
{'a': 1}|map('upper')|list
'ab'|map('upper')|list
[1, 2, 3, 4]|select('odd')|list
[1, 2, 3, 4]|reject('odd')|list
[0, 1, '', 'a', none, []]|select|list
[0, 1, '', 'a', none, []]|reject|list
[1, 2, 3]|select('gt', 1)|list
[1, 2, 3]|select('greaterthan', 1)|list
[1, 2, 3]|select('>', 1)|list
[1, 2, 3]|select('in', [1, 3])|list
[1, 2, 3, 4, 6]|select('divisibleby', 2)|list
[1, 'a', none]|select('string')|list
[1, 'a', none]|select('none')|list
['a', 'b']|select('equalto', 'a')|list
['a', 'b']|select('==', 'a')|list
['a', 'b']|reject('==', 'a')|list
[1]|select('nosuch')|list
users|selectattr('age')|map(attribute='name')|list
users|selectattr('age', 'defined')|map(attribute='name')|list
users|selectattr('age', 'gt', 20)|map(attribute='name')|list
users|selectattr('name', 'equalto', 'bob')|list
users|selectattr('name', '==', 'bob')|list|length
users|selectattr('name', 'in', ['bob', 'Al'])|map(attribute='name')|list
users|selectattr('address.city', '==', 'Rome')|map(attribute='name')|list
users|rejectattr('age')|map(attribute='name')|list
users|rejectattr('name', 'eq', 'bob')|map(attribute='name')|list
users|selectattr('nosuch')|list
users|selectattr('nosuch', 'defined')|list
users|selectattr|list
[3, 1, 2]|sort
[3, 1, 2]|sort(reverse=true)
[3, 1, 2]|sort(true)
['b', 'A', 'a', 'B']|sort
['b', 'A', 'a', 'B']|sort(case_sensitive=true)
['b', 'A', 'a', 'B']|sort(false, true)
['b', 'A', 'a', 'B']|sort(reverse=true)
['é', 'z', 'a', 'Z']|sort
users|sort(attribute='name')|map(attribute='name')|list
users|sort(attribute='age')|map(attribute='name')|list
users|sort(attribute='n,name')|map(attribute='name')|list
users|sort(attribute='n', reverse=true)|map(attribute='name')|list
users|sort(attribute='address.city')|list
[1, 'a']|sort
[none, 1]|sort
'bca'|sort
{'b': 1, 'a': 2}|sort
[[2, 'a'], [1, 'b']]|sort
[(1, 'b'), (1, 'a')]|sort
[1, 2.5, true, 0]|sort
['a', 'A', 'b', 'a']|unique|list
['a', 'A', 'b', 'a']|unique(true)|list
[1, 1.0, true, 2]|unique|list
users|unique(attribute='n')|map(attribute='name')|list
[[1], [1]]|unique|list
'abA'|unique|list
users|groupby('n')
users|groupby('n')|list|length
users|groupby('name')|map('first')|list
users|groupby('name', case_sensitive=true)|map('first')|list
users|groupby('age', default=0)|map(attribute='grouper')|list
users|groupby('age')
users|groupby('nosuch')
{'b': 1, 'a': 2, 'C': 0}|dictsort
{'b': 1, 'a': 2, 'C': 0}|dictsort(true)
{'b': 1, 'a': 2, 'C': 0}|dictsort(false, 'value')
{'b': 1, 'a': 2, 'C': 0}|dictsort(by='value', reverse=true)
{'b': 1, 'a': 2}|dictsort(by='nosuch')
{'b': 'B', 'a': 'a', 'c': 'C'}|dictsort(by='value')
{1: 'a', 'b': 2}|dictsort
[1]|dictsort
{'a': 1, 'b': 2}|items|first
{'a': 1, 'b': 2}|items|list
[1]|items|list
none|items|list
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3, 4, 5]|batch(2, 'x')|list
[1, 2, 3, 4, 5]|batch(2, none)|list
[]|batch(2)|list
[1]|batch(0)|list
'abcde'|batch(2)|list
[1, 2, 3, 4, 5]|slice(2)|list
[1, 2, 3, 4, 5]|slice(3)|list
[1, 2, 3, 4, 5]|slice(3, 'x')|list
[1]|slice(3)|list
[1, 2]|slice(0)|list
[1, 2, 3, 4]|slice(2, 'x')|list
[1, 2]|random|length
{'a': 1}|list
{'a': 1}|first|upper
{'a': 1}.items()|list
{'a': 1}.items()|first
{'a': 1}.items()|sort
{'b': 1, 'a': 1}.keys()|sort
{'b': 1, 'a': 1}.values()|sum
{'b': 1, 'a': 1}.keys()|list
[1, 2]|nosuch
[1, 2]|join(d=', ')
[1, 2]|join(',', nosuch=1)
'a'|upper()
'a'|upper(1)
'a'|default('b',)
[3, 1]|sort|first
[1, [2, [3]]]|list
(1, 2)|list
range(3)|list
[1, 2, 3]|select('odd')|map('string')|join('+')
""",
    users=[
        {"name": "bob", "age": 30, "n": 1, "address": {"city": "Rome"}},
        {"name": "Al", "age": 20, "n": 2, "address": {"city": "Oslo"}},
        {"name": "BOB", "n": 1, "age": None},
    ],
)
expressions(
    "tojson",
    r"""
v|tojson
v|tojson(indent=2)
v|tojson(indent=0)
v|tojson(indent='\t')
v|tojson(sort_keys=true)
v|tojson(separators=(',', ':'))
v|tojson(separators=[', ', ' = '])
v|tojson(indent=1, separators=(',', ': '))
v|tojson(ensure_ascii=true)
v|tojson(true)
v|tojson(true, 2)
v|tojson(false, none, none, true)
v|tojson(indent=4, sort_keys=true, ensure_ascii=true)
v.s|tojson
v.e|tojson
v.e|tojson(indent=2)
v.n|tojson
[v.s, v.n]|tojson(indent=2)
""",
    v={
        "s": "a\"b\\c/<>&'\n\t\r\b\f\u0000\u001f\u007f\u00a0\u2028é漢🦀",
        "n": [0, -1, 1.0, 1e16, 1e-7, 0.1, -0.0, 1234567890123456789, True, False, None],
        "e": [[], {}, [[]], {"a": {}}],
        "b é": {"z": 1, "a": [1, {"y": 2, "x": []}]},
    },
)
expressions(
    "tojson",
    r"""
(1, (2, 3))|tojson
{1: 'a', 1.5: 'b', true: 'c', none: 'd'}|tojson
{(1, 2): 'a'}|tojson
{'a': 1, 2: 'b'}|tojson(sort_keys=true)
range(3)|tojson
{'a': 1}.items()|tojson
{'a': 1}.keys()|list|tojson
namespace(a=1)|tojson
dict|tojson
none|tojson
'<a>'|safe|tojson
'<a>'|escape|tojson
'<b>'|tojson|escape
'é'|tojson ~ 'x'
'a'|tojson(indent=-1)
[1]|tojson(indent=-1)
[1]|tojson(indent=true)
[1]|tojson(indent=2.5)
[1]|tojson(nosuch=1)
[1, 2]|tojson(separators=(',',))
1e999|tojson
('nan'|float)|tojson
[1]|map('string')|tojson
{'a': 1} | tojson | length
'\U0001F980'|tojson(ensure_ascii=true)
'\x7f\x80'|tojson(ensure_ascii=true)
""",
)

# Methods

expressions(
    "str-strip",
    r"""
'  a  '.strip() ~ '|'
'  a  '.lstrip() ~ '|'
'  a  '.rstrip() ~ '|'
'xxaxx'.strip('x')
'xyaxy'.lstrip('yx')
'xyaxy'.rstrip('yx')
'a.b.'.rstrip('.b')
'  a '.strip(none) ~ '|'
'  a '.strip('') ~ '|'
'\x1ca\x1d'.strip()|length
'\x1ea\x1f'.strip()|length
'\x85a\u00a0'.strip()|length
'\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000a'.strip()|length
'\u200b\u2060\ufeff\u180ea'.strip()|length
'\x0b\x0ca\r\n'.strip()|length
'\x00a\x08'.strip()|length
'éaé'.strip('é')
'\n\n a\n'.lstrip('\n')
' a'.strip(1)
' a'.strip(' ', 'a')
""",
)
expressions(
    "str-split",
    r"""
'a b  c '.split()
' a b'.split(' ')
'a,b,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.split(',', maxsplit=1)
'a,b,c'.split(sep=',')
'a,b,c'.split(sep=',', maxsplit=0)
'a b c'.split(none, 1)
'  a  b  c '.split(none, 1)
'  a  b  '.split(maxsplit=1)
'a b c'.split(maxsplit=0)
''.split()
''.split(',')
'abc'.split('')
'aXXbXXc'.split('XX')
'a</think>b</think>c'.split('</think>')[-1]
'no tag'.split('</think>')[-1]
'a\x1cb\x85c\u00a0d\u3000e\x1ff'.split()
'a\u200bb'.split()
'a,b,c'.rsplit(',', 1)
'a b c'.rsplit(none, 1)
'a b c'.rsplit()
' a  b  c '.rsplit(maxsplit=1)
'a,b,c'.rsplit(',')
'abc'.split(1)
'a\nb\r\nc\rd'.splitlines()
'a\n\nb\n'.splitlines()
'a\nb\n'.splitlines(true)
'a\nb'.splitlines(keepends=true)
'a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\x1fj'.splitlines()
''.splitlines()
'\n'.splitlines()
'a-b-c'.partition('-')
'abc'.partition('-')
'a-b-c'.rpartition('-')
'abc'.rpartition('-')
'abc'.partition('')
'a-b-c'.partition('-')[2]
','.join(['a', 'b'])
','.join('abc')
','.join(('a',))
','.join([1])
','.join({'a': 1})
''.join([])
','.join(['a', none])
','.join(['a']|map('upper'))
""",
)
expressions(
    "str-search",
    r"""
'aaa'.replace('a', 'b')
'aaa'.replace('a', 'b', 2)
'aaa'.replace('a', 'b', -1)
'aaa'.replace('', '-')
'aaa'.replace('', '-', 2)
''.replace('', '-')
'é漢'.replace('', '.')
'aaa'.replace('aa', 'b')
'a'.replace('a')
'a'.replace('a', 1)
'a'.replace('a', 'b', count=1)
'abc'.startswith('ab')
'abc'.startswith(('x', 'a'))
'abc'.startswith(['x', 'a'])
'abc'.startswith('b', 1)
'abc'.startswith('b', 1, 2)
'abc'.startswith('bc', 1, 2)
'abc'.startswith('')
'abc'.startswith('', 3)
'abc'.startswith('', 4)
'abc'.startswith('c', -1)
'abc'.endswith('bc')
'abc'.endswith(('x', 'c'))
'abc'.endswith('b', 0, 2)
'abc'.endswith('c', -1)
'abc'.endswith(1)
'abcabc'.find('c')
'abcabc'.find('c', 3)
'abcabc'.find('x')
'abcabc'.find('')
'abcabc'.find('', 6)
'abcabc'.find('', 7)
'abcabc'.find('a', -3)
'é漢🦀b'.find('b')
'abcabc'.rfind('c')
'abcabc'.rfind('c', 0, 5)
'abcabc'.rfind('')
'abc'.index('c')
'abc'.index('x')
'abcabc'.rindex('a')
'abc'.rindex('x')
'aaaa'.count('aa')
'aaaa'.count('a', 1)
'aaaa'.count('a', 1, 3)
'abc'.count('')
'abc'.find(1)
'prefix-a'.removeprefix('prefix-')
'a'.removeprefix('b')
'a-suffix'.removesuffix('-suffix')
'a'.removesuffix('')
""",
)
expressions(
    "str-case",
    r"""
'aé ß ŉ ﬁ ǆ'.upper()
'AÉ İ ẞ Σ ǅ'.lower()
'ΑΣ Σ ΑΣ. ΑΣΑ'.lower()
"they're bill's o'x a1b 2nd"|title
"they're bill's o'x a1b 2nd foo_bar-baz".title()
'ǆ ß ﬁ ŉ'.title()
'hELLO wORLD'.capitalize()
'ǆ'.capitalize()
'ßß'.capitalize()
'ﬁﬁ'.capitalize()
'İI'.capitalize()
'aBcß ǅ'.swapcase()
'ﬁ'.swapcase()
'ẞß İ ﬁ Σς'.casefold()
'123'.isdigit()
'²'.isdigit()
'²'.isdecimal()
'²'.isnumeric()
'½'.isnumeric()
'½'.isdigit()
'٣'.isdecimal()
'漢'.isnumeric()
'一'.isnumeric()
'Ⅷ'.isnumeric()
''.isdigit()
'abc'.isalpha()
'aé漢'.isalpha()
'ª'.isalpha()
'Ⅷ'.isalpha()
'a1'.isalpha()
'a1²½'.isalnum()
'_'.isalnum()
' \t\u00a0\x1c\x85'.isspace()
'\u200b'.isspace()
''.isspace()
'ABC1'.isupper()
'ABc'.isupper()
'123'.isupper()
'ǅ'.isupper()
'Ⅷ'.isupper()
'abc1'.islower()
'aª'.islower()
''.islower()
'Hello World'.istitle()
'Hello world'.istitle()
'a_1'.isidentifier()
'1a'.isidentifier()
'abc'.isascii()
'é'.isascii()
''.isascii()
'a\n'.isprintable()
'é \u00a0'.isprintable()
''.isprintable()
'42'.zfill(5)
'-42'.zfill(5)
'+4'.zfill(4)
'abc'.zfill(2)
'--1'.zfill(5)
'ab'.ljust(5) ~ '|'
'ab'.ljust(5, '.')
'ab'.rjust(5, '.')
'ab'.center(5, '.')
'ab'.center(6, '.')
'abc'.center(6, '.')
'abc'.center(2)
'ab'.ljust(5, 'xy')
'é漢'.rjust(4, '🦀')
'a\tb'.expandtabs(4)
'abc'.translate({97: 'x'})
'abc'.encode()
'abc'.maketrans('a', 'b')
""",
)
expressions(
    "str-format",
    r"""
'{}'.format(1)
'{} {}'.format('a', 'b')
'{1} {0}'.format('a', 'b')
'{a} {b}'.format(a=1, b='x')
'{0} {a}'.format(1, a=2)
'{} {0}'.format(1)
'{}'.format()
'{a}'.format()
'{1}'.format(1)
'{{}} {}'.format(1)
'{'.format()
'}'.format()
'{:>5}|{:<5}|{:^5}|'.format('a', 'b', 'c')
'{:*^7}'.format('a')
'{:5}|{:5}|'.format(1, 'a')
'{:05d}'.format(42)
'{:+d} {: d}'.format(4, 5)
'{:,}'.format(1234567)
'{:_}'.format(1234567)
'{:x} {:X} {:o} {:b} {:c}'.format(255, 255, 8, 5, 65)
'{:#x} {:#b}'.format(255, 5)
'{:.2f}'.format(3.14159)
'{:8.3f}|'.format(3.14159)
'{:.0f} {:.0f}'.format(0.5, 1.5)
'{:.3}'.format('abcdef')
'{:.3}'.format(3.14159)
'{:e} {:g} {:g} {:g}'.format(12345.678, 0.00001, 1e20, 100.0)
'{:.1%}'.format(0.256)
'{:,.2f}'.format(1234567.891)
'{:d}'.format('a')
'{:d}'.format(1.5)
'{:s}'.format(1)
'{!r} {!s} {!a}'.format('é', 'é', 'é')
'{!r:>6}'.format('a')
'{:{}}|'.format('a', 5)
'{:{w}.{p}f}|'.format(3.14159, w=8, p=2)
'{0[a]}'.format({'a': 1})
'{0[0]}'.format([1])
'{0[x]}'.format({'a': 1})
'{0.real}'.format(5)
'{0.__class__}'.format(5)
'{0.__class__.__name__}'.format(5)
'{a.b}'.format(a={'b': 1})
'{}'.format([1, 'a'])
'{}'.format(none)
'{}'.format(true)
'{:5}'.format(true)
'{:5}'.format(none)
'{:>5}'.format([1])
'{}'.format(1.0)
'{a}'.format_map({'a': 1})
'{a.__class__}'.format_map({'a': 1})
'{0:}'.format(1)
'{!x}'.format(1)
('{}'|safe).format('<')
'{:%}'.format(1)
'{:n}'.format(1234)
'{:=+6d}'.format(5)
'{:06.2f}'.format(-1.5)
'{:é>4}'.format('a')
'{:>{0}}'.format(3)
'{a!r}'.format(a="it's")
'{}{}'.format(*['a', 'b'])
'{a}'.format(**{'a': 1})
""",
)
expressions(
    "containers",
    r"""
m.get('a')
m.get('z')
m.get('z', 'd')
m.get('z', default='d')
m.get('z') is none
m.get([1])
m.get()
m.items()|list
m.keys()|list
m.values()|list
m.copy()
m.copy() == m
m.items()|length
m.keys() is sequence
'a' in m.keys()
1 in m.values()
('a', 1) in m.items()
m.keys()[0]
m.keys()|first
m|length
m|list
m.fromkeys(['x'], 1)
dict.fromkeys(['x', 'y'])
dict.fromkeys(['x'], 0)
dict(a=1, b=2)
dict([['a', 1], ['b', 2]])
dict({'a': 1}, b=2)
dict(m, c=3)
dict(m.items())
dict()
dict(1)
dict(**m)
dict(m, **{'z': 1})
l.index(2)
l.index(9)
l.index(2, 1)
l.count(2)
l.copy()
(1, 2, 2).count(2)
(1, 2).index(2)
range(5).index(3)
range(5).count(3)
range(5).start
l + [4]
l[::-1]
l.append(1)
l.extend([1])
l.insert(0, 1)
l.remove(1)
l.pop()
l.clear()
l.sort()
l.reverse()
m.update({'a': 1})
m.pop('a')
m.popitem()
m.setdefault('a', 1)
m.clear()
l.append
l.append is defined
m.update is defined
m.pop|default('d')
l.append.x
'x' if l.append else 'y'
range(3)|list
range(1, 4)|list
range(4, 1)|list
range(4, 1, -1)|list
range(0, 10, 3)|list
range(0)|list
range(-2)|list
range(3, stop=4)|list
range(1.5)|list
range('a')|list
range(1, 2, 0)|list
range(true)|list
range()
range(100000)|length
range(100001)|length
range(0, 200000, 2)|length
range(3)|reverse|list
range(3)|sum
range(3)|join(',')
2 in range(3)
(1).bit_length()
(5).conjugate()
(1.5).is_integer()
(2.0).is_integer()
(1.5).hex()
(1).to_bytes(2, 'big')
(1.0).as_integer_ratio()
(true).real
""",
    m={"a": 1, "b": [2]},
    l=[1, 2, 3],
)

# Control structures

template(
    "for",
    "{% for i in [1, 2, 3] %}{{ i }}{% endfor %}",
    "{% for i in [] %}{{ i }}{% else %}empty{% endfor %}",
    "{% for i in [1] %}{{ i }}{% else %}empty{% endfor %}",
    "{% for c in 'abc' %}{{ c }}.{% endfor %}",
    "{% for c in 'é漢🦀' %}{{ c }}.{% endfor %}",
    "{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2}|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2}|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for i in none %}{% endfor %}",
    "{% for i in 5 %}{% endfor %}",
    "{% for i in true %}{% endfor %}",
    "{% for i in [1, 2, 3, 4] if i is odd %}{{ i }}{{ loop.index }}/{{ loop.length }};{% endfor %}",
    "{% for i in [2] if i is odd %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in [1, 2] if loop.index == 1 %}{{ i }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}",
    "{% for i in [1, 2] %}{{ loop.previtem.x }}{% endfor %}",
    "{% for i in [1, 1, 2, 2, 1] %}{% if loop.changed(i) %}{{ i }}{% endif %}{% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i, 'x') }};{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}",
    "{% for i in [1, 2] %}{{ loop.nosuch }}x{% endfor %}",
    "{% for i in [1, 2] %}{{ loop }};{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop|length }}{% endfor %}",
    "{% for i in [1, 2, 3, 4] %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, 2, 3, 4] %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [1, 2] %}{% break %}{% else %}e{% endfor %}",
    "{% for i in [1, 2] %}{% continue %}{% else %}e{% endfor %}",
    "{% for i in [1, 2] %}{% for j in [1, 2, 3] %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }};{% endfor %}{% endfor %}",
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ loop.index }}{{ loop.last }};{% endfor %}",
    "{% for i in [1, 2] %}{{ loop.index }}:{% for j in 'ab' %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for i in [1, 2] %}{% set outer = loop %}{% for j in 'ab' %}{{ outer.index }}{{ loop.index }};{% endfor %}{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, b in ['xy', 'zw'] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for a, b in [(1,)] %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for a, in [(1,)] %}{{ a }}{% endfor %}",
    "{% for i in 1, 2 %}{{ i }}{% endfor %}",
    "{% for i in [1, 2] + [3] %}{{ i }}{% endfor %}",
    "{% for i in ([1, 2] if true else []) %}{{ i }}{% endfor %}",
    "{% for i in x|default([1]) if i %}{{ i }}{% endfor %}",
    "{% for i in [3, 1, 2]|sort|reverse %}{{ i }}{{ loop.last }};{% endfor %}",
    "{% for i in [3, 1]|map('string') %}{{ i }}{{ loop.length }}{{ loop.last }};{% endfor %}",
    "{% for i in 'ab'|reverse %}{{ i }}{{ loop.revindex }}{% endfor %}",
    "{% for i in range(3) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for i in tree recursive %}{{ i.n }}{{ loop.depth }}{% if i.c %}({{ loop(i.c) }}){% endif %}{% endfor %}",
    "{% for i in tree recursive %}{{ loop.index }}/{{ loop.length }}{{ i.n }}{{ loop(i.c|default([])) }};{% endfor %}",
    "{% for i in tree %}{{ loop(i.c) }}{% endfor %}",
    "{% for i in [1, 2] %}{% set x = i %}{% endfor %}{{ x }}",
    "{% set x = 0 %}{% for i in [1, 2] %}{% set x = i %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 0 %}{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }};{% endfor %}",
    "{% set x = 0 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }};{% endfor %}{{ x }}",
    "{% for i in [1, 2] %}{% if true %}{% set x = i %}{% endif %}{{ x }}{% endfor %}{{ x is defined }}",
    "{% for i in [1, 2] %}{% if loop.first %}{% set x = 'f' %}{% endif %}{{ x|default('none') }};{% endfor %}",
    "{% set i = 9 %}{% for i in [1, 2] %}{{ i }}{% endfor %}{{ i }}",
    "{% for i in [1] %}{% endfor %}{{ i is defined }}{{ loop is defined }}",
    "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% for i in [1, 2] %}{% set ns = namespace(n=i) %}{% endfor %}{{ ns is defined }}",
    "{% for m in messages[1:] %}{{ m }}{{ loop.index0 }}{% endfor %}",
    "{% for m in messages[::-1] %}{{ m }}{% endfor %}",
    "{% for m in messages %}{{ messages[loop.index0 - 1] }}{{ messages[loop.index0 + 1] }};{% endfor %}",
    "{% for m in messages|reverse %}{{ m }}{{ loop.length }}{% endfor %}",
    "{% for i in [] recursive %}{% endfor %}x",
    "{% for item in [[1, [2]], [3]] recursive %}{% if item is iterable %}[{{ loop(item) }}]{% else %}{{ item }}{% endif %}{% endfor %}",
    "{% for k, v in [1, 2]|items %}{% endfor %}",
    "{% for i in [1, 2, 3] if i > 1 and i < 3 %}{{ i }}{% endfor %}",
    "{% for i in [1, 2] if i > 1 else [] %}{{ i }}{% endfor %}",
    "{% for x in [1, 2] if x == y %}{{ x }}{% endfor %}z",
    "{% for i in namespace(a=1) %}{{ i }}{% endfor %}",
    "{% for g in [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}]|groupby('a') %}{{ g.grouper }}{{ g.list|length }}{{ g[0] }}{% endfor %}",
    tree=[{"n": "a", "c": [{"n": "b", "c": [{"n": "c"}]}, {"n": "d"}]}, {"n": "e"}],
    messages=["p", "q", "r"],
)
template(
    "if-set",
    "{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}",
    "{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}",
    "{% if '' %}a{% endif %}{% if 'x' %}b{% endif %}{% if [] %}c{% endif %}{% if [0] %}d{% endif %}{% if {} %}e{% endif %}{% if 0.0 %}f{% endif %}{% if none %}g{% endif %}",
    "{% if not x %}a{% endif %}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if false %}{% set x = 1 %}{% endif %}{{ x is defined }}",
    "{% if true %}{% if false %}a{% else %}b{% endif %}{% else %}c{% endif %}",
    "{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a, b = [1, 2] %}{{ b }}{{ a }}",
    "{% set (a, b) = (1, 2) %}{{ b }}",
    "{% set a, b = 'xy' %}{{ b }}{{ a }}",
    "{% set a, b = 1 %}",
    "{% set a, b = [1, 2, 3] %}",
    "{% set a, b = [1] %}",
    "{% set a, (b, c) = [1, [2, 3]] %}{{ c }}",
    "{% set a = b = 1 %}",
    "{% set x %}a{{ 1 + 1 }}b{% endset %}{{ x }}{{ x|length }}",
    "{% set x %}\n  a\n{% endset %}\n[{{ x }}]",
    "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | trim | replace('a', 'b') %} aaa {% endset %}[{{ x }}]",
    "{% set x %}{% endset %}{{ x is defined }}{{ x == '' }}{{ x is string }}",
    "{% set x %}<b>{% endset %}{{ x|escape }}{{ x ~ '<' }}",
    "{% set x %}a{% set y = 1 %}{% endset %}{{ y is defined }}",
    "{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns['x'] }}",
    "{% set ns = namespace(a=1, b='x') %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace([['a', 1]]) %}{{ ns.a }}",
    "{% set ns = namespace(a=1) %}{% set ns.x %}block{% endset %}{{ ns.x }}",
    "{% set ns = namespace(a=1) %}{% set ns['a'] = 2 %}{{ ns.a }}",
    "{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{{ ns.a }}",
    "{% set ns = namespace(a=1) %}{% set ns.a, b = 2, 3 %}{{ ns.a }}{{ b }}",
    "{% set ns = namespace(items=1) %}{{ ns.items }}{{ ns.keys is defined }}{{ ns.get is defined }}",
    "{% set ns = namespace(self=1) %}{{ ns.self }}",
    "{% set m = {'a': 1} %}{% set m.a = 2 %}{{ m }}",
    "{% set ns.x = 1 %}",
    "{% set ns = namespace(_a=1) %}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{% set ns = namespace({'__init__': 1}) %}",
    "{% set ns = namespace() %}{{ ns.__class__ }}x",
    "{% set ns = namespace(1) %}",
    "{% set range = 5 %}{{ range }}",
    "{% set messages = messages[1:] %}{{ messages|length }}{{ messages[0] }}",
    "{% set loop = 5 %}{% for i in [1] %}{{ loop.index }}{% endfor %}{{ loop }}",
    "{% set x = 'a' if y else 'b' %}{{ x }}",
    "{% set x = 1 %}{% set y = x %}{% set x = 2 %}{{ y }}",
    "{% set x = [1] %}{% set y = x + [2] %}{{ x }}{{ y }}",
    "{% if true %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set x = 1 %}{% with %}{% set x = 2 %}{{ x }}{% endwith %}{{ x }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}",
    "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set z = 1 %}{% endwith %}{{ z is defined }}",
    "{% with x = messages|first %}{{ x }}{% endwith %}",
    "{% filter upper %}a{{ 'b' }}c{% endfilter %}",
    "{% filter replace('a', 'b')|upper %}aac{% endfilter %}",
    "{% filter trim %}  a\n {% endfilter %}|",
    "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% filter upper %}{% set x = 1 %}{% endfilter %}{{ x is defined }}",
    "{% filter nosuch %}{% endfilter %}",
    "{% if x == 1 %}{% endif %}{% set x = 1 %}{{ x }}",
    "{{ messages }}{% set messages = [] %}{{ messages }}",
    "{% set x = messages %}{{ x is sameas messages }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "{{ cycler() }}",
    "{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{{ j() }}c",
    "{% set j = joiner() %}{{ j() }}a{{ j() }}b",
    "{% set n = namespace %}{{ n(a=1).a }}",
    "{% set _ = 1 %}{{ _ }}{% set _x = 2 %}{{ _x }}",
    messages=["p", "q"],
)
template(
    "macros",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m(1) }}{{ m('x') }}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(a=4) }}{{ m(b=5, a=6) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }};{% endmacro %}{{ m(1) }}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a is defined }}{{ a }};{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "{% macro m() %}{{ kwargs.x }}{% endmacro %}{{ m(x=3) }}",
    "{% macro m() %}{{ caller() }}!{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m() %}{{ caller(1, 'x') }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller(1) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}x{% endmacro %}{% call m() %}body{% endcall %}",
    "{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% set y = 1 %}{% call(v) m(2) %}{{ v }}{{ y }}{% set z = 3 %}{% endcall %}{{ z is defined }}",
    "{% set y = 1 %}{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}",
    "{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}",
    "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %}{{ i }}{{ loop is defined }}{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}x",
    "{% macro m() %}{% set y = 5 %}{{ y }}{% endmacro %}{{ m() }}{{ y is defined }}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{{ m(1) }}{% macro m(a) %}{{ a }}{% endmacro %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% macro m() %}\n  x\n{% endmacro %}\n[{{ m() }}]",
    "{%- macro m() -%}\n  x\n{%- endmacro -%}\n[{{ m() }}]",
    "{% macro m() %} a {% endmacro %}{{ m()|trim }}{{ m()|length }}{{ m() ~ 'b' }}{{ m() is string }}",
    "{% macro m() %}<b>{% endmacro %}{{ m()|escape }}",
    "{% macro m(a, b) %}{% endmacro %}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}",
    "{% macro m() %}{% endmacro %}{{ m }}",
    "{% macro m(a=[]) %}{{ a + [1] }}{% endmacro %}{{ m() }}{{ m() }}",
    "{% macro m(a=x) %}{{ a }}{% endmacro %}{{ m() }}",
    "{% macro m(x) %}{{ x }}{% endmacro %}{{ [1, 2]|map('string')|list }}{{ m(*[7]) }}{{ m(**{'x': 8}) }}",
    "{% macro m(*a) %}{% endmacro %}",
    "{% macro m(a) %}{{ a }}{% endmacro m %}",
    "{% macro m(ns) %}{% set ns.n = ns.n + 1 %}{% endmacro %}{% set ns = namespace(n=0) %}{{ m(ns) }}{{ m(ns) }}{{ ns.n }}",
    "{% macro m() %}{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ m() }}",
    "{% if true %}{% macro m() %}x{% endmacro %}{% endif %}{{ m() }}",
    "{% if false %}{% macro m() %}x{% endmacro %}{% endif %}{{ m is defined }}",
    "{% macro m() %}{{ messages }}{% endmacro %}{{ m() }}",
    "{% macro m(f) %}{{ f('a') }}{% endmacro %}{% macro g(x) %}<{{ x }}>{% endmacro %}{{ m(g) }}",
    "{% macro m(none) %}{% endmacro %}",
    "{% macro m(caller) %}{{ caller }}{% endmacro %}{{ m(1) }}",
    "{% macro m(caller=none) %}{{ caller is none }}{% endmacro %}{{ m() }}",
    "{% set f = 'a'.upper %}{{ f() }}",
    "{% macro upper(x) %}m{{ x }}{% endmacro %}{{ upper('a') }}{{ 'a'|upper }}",
)
template(
    "generation",
    "a{% generation %}b{% endgeneration %}c",
    "{% for i in [1, 2] %}u{{ i }}{% generation %}a{{ i }}{% endgeneration %}\n{% endfor %}",
    "a\n  {% generation %}\n  b\n  {% endgeneration %}\n  c",
    "a {%- generation -%} b {%- endgeneration -%} c",
    "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x is defined }}",
    "{% set x = 1 %}{% generation %}{{ x }}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% generation %}{% set ns.x = 2 %}{% endgeneration %}{{ ns.x }}",
    "{% for i in [1, 2] %}{% generation %}{{ loop.index }}{{ i }}{% endgeneration %}{% endfor %}",
    "{% for i in [1, 2] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% generation %}a",
    "{% endgeneration %}",
    "{% generation x %}a{% endgeneration %}",
    "{% generation %}{% endgeneration %}",
    "x{% generation %}{% endgeneration %}y",
    "{% macro m() %}a{% generation %}b{% endgeneration %}c{% endmacro %}xy{{ m() }}z",
    "x{% set y %}a{% generation %}b{% endgeneration %}c{% endset %}{{ y }}",
    "xx{% filter upper %}a{% generation %}bc{% endgeneration %}d{% endfilter %}",
    "xx{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}",
    "xx{% if true %}y{% generation %}a{% endgeneration %}{% endif %}",
    "é漢🦀{% generation %}é🦀{% endgeneration %}",
    "x{% for i in [1, [2]] recursive %}{% if i is number %}{% generation %}{{ i }}{% endgeneration %}{% else %}({{ loop(i) }}){% endif %}{% endfor %}",
    "x{% call m() %}{% generation %}a{% endgeneration %}{% endcall %}{% macro m() %}{{ caller() }}{% endmacro %}",
    "{% macro m() %}q{{ caller() }}{% endmacro %}x{% call m() %}{% generation %}a{% endgeneration %}{% endcall %}",
    "x{% with y = 1 %}{% generation %}{{ y }}{% endgeneration %}{% endwith %}",
    "x{% block b %}{% generation %}a{% endgeneration %}{% endblock %}",
    "{% generation %}<b>{{ '<' }}{% endgeneration %}",
    "x{% generation %}{% for c in 'ab' %}{{ c }}{% endfor %}{% endgeneration %}{% generation %}c{% endgeneration %}",
    "{{ generation }}x",
    "{% generation %}{{ caller is defined }}{{ varargs is defined }}{% endgeneration %}",
    "{%generation%}a{%endgeneration%}",
)

# Security, text that looks like a template, and what chat templates do in practice

expressions(
    "security",
    r"""
''.__class__
''.__class__.__mro__
''['__class__']
''|attr('__class__')
''.__class__ is defined
[].__class__.__base__
{}.__class__()
(1)._x
m._x
m['_x']
m.__len__
m['__class__']
m.__class__.__name__
''.__add__('a')
m._x.y
range.__name__
namespace.__init__
raise_exception.__globals__
lipsum.__globals__
lipsum is defined
cycler.__init__.__globals__
joiner('a').used
self._x
self.__class__
''.join.__self__
''.format.__call__('x')
'{0._x}'.format(m)
'{0[_x]}'.format(m)
'{0.__init__}'.format(m)
'{0.x.__class__.y}'.format(m)
('{0.__class__.x}'|safe).format(m)
'%s'.__mod__('a')
m.get('_x')
dict.__class__
dict.__call__.__globals__
dict.fromkeys.__func__
[m]|map(attribute='__class__')|list
[m]|map(attribute='_x')|list
[m]|selectattr('__class__')|list|length
[m]|sum('__class__')
m|attr('_x')
m|map('attr', '__class__')|list
[m]|groupby('__class__')
[m]|join(attribute='__class__')
mro
''.mro
range.mro
func_globals
(1).real.__class__
strftime_now.__code__
namespace(a=1)._Namespace__attrs
'a'.__doc__
'abc'.encode().decode()
""",
    m={"_x": "hidden", "x": 1},
)
template(
    "content",
    "{{ messages[0].content }}",
    "{{ messages[0]['content']|upper }}",
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}default\n{% endif %}{{ m.role ~ ': ' ~ m.content }}\n{% endfor %}",
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{{ m.content|trim }}{{ eos_token }}{% endfor %}",
    "{% if (messages[0].role == 'user') != (0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}ok",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate at ' ~ loop.index0) }}{% endif %}{{ m.content }}{% endfor %}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join('; ') }}",
    "{{ (messages|last)['content'] }}{{ messages[-1].role == 'assistant' }}",
    "{%- set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages -%}{{ loop_messages|length }}",
    "{{ messages | tojson }}",
    "{{ messages[0] }}",
    "{% set content = messages[0].content %}{% if content is string %}{{ content }}{% else %}{% for part in content %}{{ part.text }}{% endfor %}{% endif %}",
    "{{ messages[0].content.split('}}')[0] }}",
    "{% for m in messages %}{{ m.get('name', 'anon') }}{{ m.tool_calls is defined and m.tool_calls }}{% endfor %}",
    "{% if tools %}t{% endif %}{% if tools is not none %}n{% endif %}{% if documents %}d{% endif %}",
    "{{ messages[0].content is string }}{{ messages[0] is mapping }}{{ messages is sequence and messages is not string }}",
    messages=[
        {"role": "user", "content": "{{ 1 + 1 }} {% if x %} {# c #} <b> & '\"\n"},
        {"role": "assistant", "content": " \u00a0ok\n"},
        {"role": "user", "content": "bye"},
    ],
    tools=None,
    bos_token="<s>",
    eos_token="</s>",
    add_generation_prompt=True,
)
template(
    "values",
    "{{ v }}|{{ v|tojson }}|{{ v is string }}{{ v is number }}{{ v is none }}{{ v is true }}",
    v="a\u0000b",
)
for value in [None, True, False, 0, -3, 1.0, -0.5, 1e-9, 10**18, "", "é", [], {}, [None], {"a": None}]:
    template("values", "{{ v }}|{{ [v] }}|{{ v|tojson }}|{{ 'yes' if v else 'no' }}|{{ v|string|length }}|{{ v == v }}", v=value)

# Parsing

expressions(
    "keywords",
    r"""
m.if
m.for
m.not
m.and
m.in
m.is
m.else
m.class
m.true
m.none
m['if']
dict(if=1, class=2)
dict(not=1)
namespace(class=1, for=2).for
if
for
else
not
in
is
class
def
import
lambda
true.real
x.true
{'if': 1}.if
range(stop=2)
m|attr('if')
[m]|map(attribute='if')|list
[m]|map(attribute='class')|first
""",
    m={"if": 1, "for": 2, "not": 3, "and": 4, "in": 5, "is": 6, "else": 7, "class": 8, "true": 9, "none": 10},
)
template(
    "keywords",
    "{% set if = 1 %}{{ m }}",
    "{% set class = 1 %}{{ class }}",
    "{% set for = 1 %}",
    "{% set not = 1 %}",
    "{% set True = 1 %}",
    "{% set self = 1 %}{{ self }}",
    "{% set def = 1 %}{% set lambda = 2 %}{{ def + lambda }}",
    "{% for in in [1] %}{{ in }}{% endfor %}",
    "{% for class in [1] %}{{ class }}{% endfor %}",
    "{% macro m(class, def=2) %}{{ class }}{{ def }}{% endmacro %}{{ m(1) }}{{ m(class=3, def=4) }}",
    "{% macro if() %}x{% endmacro %}{{ m }}",
    "{% with class = 1 %}{{ class }}{% endwith %}",
    "{% set ns = namespace() %}{% set ns.class = 1 %}{% set ns.if = 2 %}{{ ns.class }}{{ ns.if }}",
    "{% set caller = 1 %}{{ caller }}",
    "{% set context = 1 %}{% set environment = 2 %}{% set resolve = 3 %}{{ context + environment + resolve }}",
    "{% set l_0_x = 1 %}{% set x = 2 %}{{ l_0_x }}{{ x }}",
    m="M",
)
expressions(
    "parsing",
    r"""
[3, 1]|sort[0]
([3, 1]|sort)[0]
[3, 1]|sort|first
users|first.name
(users|first).name
[1]|join(',').upper()
([1]|join(',')).upper()
'a'|upper|lower|upper
'a' | upper | lower
'a' |upper()|replace ('A', 'b')
'a'|default
'a' 'b'|upper
'a' ~ 'b'|upper
('a' ~ 'b')|upper
'a'.upper() 'b'
'a'.upper().lower()
'a' . upper ()
users [0] ['name']
users[0]['name'][0]|upper
users[-1:][0].name
users[0:1][0]['name']
users[0,1]
users[0,]
'abcdef'[1:4:2]
'abcdef'[(1):(4)]
'abcdef'[users|length:]
-'abc'|length
-users[0].n|abs
2 ** -1|abs
-1 ** 2|abs
2 ** 2|string
(2 ** 2)|string
1 + 1|string|length
1 < 2|int
not true|string
not users[0].n == 2
not users is defined
not users is not defined
'a' not in 'b' and 'c' in 'c'
'a' in 'abc' | upper
1 in [1] and not 2 in [1]
1 not in [1] or 2 not in [1]
1 is not none and 1 is not undefined
1 is defined and 1 == 1
1 if 1 is defined and 1 == 1 else 2
1 == 1 if true
1 if true else
1 if
if 1
1 else 2
(1 if true)
[1 if true else 2, 3 if false else 4]
{'a': 1 if false else 2}
{'a' if true else 'b': 1}
'a' if true and false or true else 'b'
1 or 2 if 0 else 3
1 and 2 and 3
0 or '' or none or 5
1 + + 1
1 - - 1
1 * -1
1 ~ ~ 1
1 +
* 1
1 ** ** 2
1 = 1
1 === 1
1 ! 1
1 is
1 is not
1 in
is defined
| upper
a.b.c
a..b
.a
a.'b'
a.[0]
a[
a[0
a(
f(,)
f(1,,2)
range(1,)|list
range(*[1, 3])|list
range(*[1], *[3])|list
dict(**{'a': 1}, b=2)
dict(a=1, a=2)
dict(a=1, **{'a': 2})
range(1, *[3])|list
range(*[1], 3)|list
[1,, 2]
[,]
(,)
{,}
{'a'}
{'a': }
{'a': 1 'b': 2}
{'a': 1,, 'b': 2}
(1, 2
((1))
(((1, 2)))
((1, 2), 3)
([])
[[[[1]]]]
{'a': {'b': {'c': [1, {'d': 2}]}}}['a']['b']['c'][1]['d']
f"x"
r'x'
b'x'
u'x'
'''x'''
'a\'b' "c\"d"
"it's" 'a "q"'
1.0.real
1..real
1.e5
1e5.real
0xg
0b2
0o8
1_000.5_0
10 // 3 * 3 + 10 % 3
1 < 2 and 2 < 3
1 < 2 < 3 and 'x'
1 == 1 == 1 == 1
1 != 2 != 1
'a' < 'b' in ['b']
1 >= 1 <= 1
'a'=='a'
1<2
1>2
1>=1
a==b
x|default({'a': [1, 2]})
x|default([])|length
x|default('')|length > 0
(x|default('')|length) > 0
x|default(none) is none
(x or y or 'z')|upper
x is defined and x|length
x is not defined or x|length
loop.index
messages[0].role
users|length == 2
users|length > 1 and users[1].name == 'b'
users|map(attribute='name')|list == ['a', 'b']
users|selectattr('n', '>', 1)|map(attribute='name')|join
users|selectattr('n', 'odd')|list|length
users[users|length - 1].name
users[(users|length) - 1]['name']
users[0].name ~ users[1]['name'] ~ users[0].n
users[0].name * users[1].n
users[0] == {'name': 'a', 'n': 1}
users[0] is mapping and users is not mapping
users.0.name
users.0['name']
users.-1
'%s is %d' % (users[0].name, users[0].n)
'%s' % users[0].name ~ '!'
'%s' % 'a' * 2
'a' 'b' * 2
'a' + 'b' * 2
('a', 'b')|join
('a')|join
'a', 'b'|upper
""",
    users=[{"name": "a", "n": 1}, {"name": "b", "n": 2}],
)
template(
    "parsing",
    "{% if users|length > 1 and users[0].name == 'a' %}x{% endif %}",
    "{% if not users %}a{% elif users[0] is mapping %}b{% endif %}",
    "{% if (users) %}a{%- else -%}b{% endif %}",
    "{% if users[0].n == 1 or x.y %}a{% endif %}",
    "{% for u in users if u.n > 1 %}{{ u.name }}{% endfor %}",
    "{% for u in users|sort(attribute='n', reverse=true) %}{{ u.name }}{% endfor %}",
    "{% for u in users[1:] + users[:1] %}{{ u.name }}{% endfor %}",
    "{% for u in (users) %}{{ u.name }}{% endfor %}",
    "{% for u in users, %}{{ u|length }}{% endfor %}",
    "{% for u in users if u.n == 1 or u.n == 2 %}{{ loop.index }}{% endfor %}",
    "{% for i, u in users|dictsort %}{% endfor %}",
    "{% set a = 1 if users else 2 %}{{ a }}",
    "{% set a, b = users %}{{ a.name }}{{ b.name }}",
    "{% set a = users[0] %}{% set b = a.name | upper ~ '!' %}{{ b }}",
    "{% set a = not users %}{{ a }}",
    "{% set a = 1 == 1 %}{{ a }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a = [1, 2] | map('string') | join('-') %}{{ a }}",
    "{% set a %}{{ users[0].name }}{% endset %}{% set b = a ~ a %}{{ b }}",
    "{% set x = none %}{% if x is none %}none{% endif %}{{ x is defined }}",
    "{% set x = users|length %}{% if x == 2 %}two{% endif %}",
    "{{ users[0].name }}{# comment #}{{ users[1].name }}",
    "{{ '#}' }}{# #}",
    "{# {# #} #}",
    "{{ '{#' }}x{{ '#}' }}",
    "{{ \"{{ x }}\" }}",
    "{{- '\\n' -}}\n{{- '\\n' -}}",
    "{{'a'}}{{'b'}}",
    "{{\n'a'\n}}",
    "{{ 'a'\n~\n'b' }}",
    "{%\nif\ntrue\n%}x{%\nendif\n%}",
    "{% if true %}{{ 'a' }}{% endif %}{% if true -%} {{ 'b' }} {%- endif %}",
    "{{%- 1 }}",
    "{{ -1 }}{{-1}}{{- 1}}{{ - 1 }}",
    "{{ 1 -}}x",
    "{{ 1 - }}x",
    "{{ 1 +}}x",
    "{{ x }}{{y}}{{ z -}} w",
    "{%- for u in users -%}\n  {{ u.name }},\n{%- endfor -%}",
    "{% for u in users -%}\n  {{ u.name }}\n  {%- if not loop.last %}, {% endif -%}\n{%- endfor %}",
    "{%-   if true   -%}x{%-   endif   -%}",
    "{%if true-%} x {%-endif%}",
    "{%+if true%}x{%endif+%}\ny",
    "{%~ if true %}x{% endif %}",
    "{{~ 1 }}",
    "%{ if }%",
    "{% %}",
    "{%%}",
    "{{}}",
    "{##}",
    "{{ {}}}",
    "{{ {'a': 1}}}",
    "{{ {'a': {'b': 1}}}}",
    "{{ {}}} }}",
    users=[{"name": "a", "n": 1}, {"name": "b", "n": 2}],
)

# Globals. The formats of `strftime_now` do not depend on the clock.

expressions(
    "globals",
    r"""
strftime_now is defined
strftime_now('x')
strftime_now('100%%')
strftime_now('%Y-%m-%d')|length
strftime_now('%d %b %Y')|length
strftime_now(format='x')
strftime_now()
strftime_now(1)
raise_exception is defined
namespace is defined
dict is defined
cycler is defined and joiner is defined
lipsum(0)
range is defined
context is defined
environment is defined
zip is defined
enumerate is defined
len is defined
str is defined
list is defined
int is defined
print is defined
tojson is defined
messages is defined
tools is defined
now is defined
debug is defined
len([1])
str(1)
list('ab')
enumerate([1])
zip([1], [2])
""",
)
template("globals", "{% set range = 1 %}{{ range + 1 }}", "{% set dict = {'a': 1} %}{{ dict.a }}")
template("globals", "{{ range }}{{ namespace }}{{ dict }}", range="r", namespace="n", dict="d")
template("globals", "{{ raise_exception }}", raise_exception="shadowed")
