#include "kvplane/model/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <vector>

namespace kvplane::model {
namespace {

namespace fs = std::filesystem;

const std::vector<ChatMessage> kTalk = {
    {"system", "Be brief."}, {"user", " Hi? "}, {"assistant", "Yes."}, {"user", "Go"}};

std::string Render(std::string_view source, const std::vector<ChatMessage>& messages = kTalk,
                   bool add_generation_prompt = true) {
  const auto compiled = ChatTemplate::Compile(source);
  if (!compiled.ok()) return "compile: " + compiled.status().ToString();
  const auto text = compiled->Render(messages, "<s>", "</s>", add_generation_prompt);
  return text.ok() ? *text : "render: " + text.status().ToString();
}

base::Status CompileStatus(std::string_view source) { return ChatTemplate::Compile(source).status(); }

base::Status RenderStatus(std::string_view source) {
  const auto compiled = ChatTemplate::Compile(source);
  if (!compiled.ok()) return compiled.status().Annotate("compile");
  return compiled->Render(kTalk, "<s>", "</s>", true).status();
}

TEST(ChatTemplateUnit, DemoModel) {
  const auto compiled = ChatTemplate::Load(fs::path(KVPLANE_SOURCE_DIR) / "models" / "demo");
  ASSERT_TRUE(compiled.ok()) << compiled.status().ToString();
  EXPECT_EQ(*compiled->Render(kTalk, "<s>", "</s>", true),
            "<s>Be brief.\nQuestion:  Hi? \nAnswer: Yes.\nQuestion: Go\nAnswer:");
  EXPECT_EQ(*compiled->Render({{kTalk[1]}}, "", "", false), "Question:  Hi? \n");
}

// The constructs of the templates that model folders carry, in our words.
TEST(ChatTemplateUnit, HeaderStyle) {  // Llama 3, Qwen2.5
  constexpr std::string_view kSource = R"({{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message comes first, if there is one. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "[system]\n" }}
{%- if tools is not none %}
    {{- "Tools: " + (tools | reject('equalto', 'x') | join(", ")) + "\n\n" }}
{%- endif %}
{{- system + "[end]\n" }}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "assistant" and not message.tool_calls) %}
        {{- '[' + message.role + ']\n' + message['content'] | trim + '[end]' + '\n' }}
    {%- elif message.role == "tool" or 'tool_calls' in message %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant]\n' }}
{%- endif %}
)";
  EXPECT_EQ(Render(kSource),
            "<s>[system]\nBe "
            "brief.[end]\n[user]\nHi?[end]\n[assistant]\nYes.[end]\n[user]\nGo[end]\n[assistant]\n");
  EXPECT_EQ(Render(kSource, {{"user", "A"}}, false), "<s>[system]\n[end]\n[user]\nA[end]\n");
  EXPECT_EQ(Render(kSource, {{"tool", "A"}}),
            "render: invalid argument: chat template: line 25: the chat template refuses: no tools here");
}

TEST(ChatTemplateUnit, InstructionStyle) {  // Llama 2, Mistral: roles must alternate, a namespace counts
  constexpr std::string_view kSource = R"({%- if messages[0]["role"] == "system" %}
  {%- set system_message = messages[0]["content"] %}
  {%- set loop_messages = messages[1:] %}
{%- else %}
  {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
  {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
    {{- raise_exception("Roles must alternate") }}
  {%- endif %}
  {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
  {%- if message["role"] == "user" %}
    {%- if loop.first and system_message is defined %}
      {{- "[I] " + system_message + "\n\n" + message["content"] + "[/I]" }}
    {%- else %}
      {{- "[I] " ~ message.content.strip() ~ (message == user_messages[-1]) ~ "[/I]" }}
    {%- endif %}
  {%- else %}
    {{- " " + message["content"] | trim + eos_token }}
  {%- endif %}
{%- endfor %})";
  EXPECT_EQ(Render(kSource), "<s>[I] Be brief.\n\n Hi? [/I] Yes.</s>[I] GoTrue[/I]");
  EXPECT_NE(Render(kSource, {{"user", "a"}, {"user", "b"}}).find("Roles must alternate"), std::string::npos);
}

TEST(ChatTemplateUnit, WhiteSpaceRules) {
  EXPECT_EQ(Render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(Render("a \n {%- if true -%} \n b {%- endif -%} \n c"), "abc");
  EXPECT_EQ(Render("a {{ 1 }} \n {{- 2 -}} \n b"), "a 12b");
  EXPECT_EQ(Render("  {{ 1 }}\n"), "  1");
  EXPECT_EQ(Render("{{ 1 }}\n\n"), "1\n");
  EXPECT_EQ(Render("a\n  {%+ if true +%}\n  b{% endif %}"), "a\n  \n  b");
  EXPECT_EQ(Render("a\n  {# c #}\nb {#- c -#} d"), "a\nbd");
  EXPECT_EQ(Render("x {% if true %} y {% endif %} z"), "x  y  z");
  EXPECT_EQ(Render("a\r\n{% if true %}\r\nb{% endif %}\rc"), "a\nbc");
  EXPECT_EQ(Render("{ {a} }% {"), "{ {a} }% {");
}

TEST(ChatTemplateUnit, LoopsAndScopes) {
  EXPECT_EQ(
      Render("{% for m in messages %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.length }}/{{ loop.revindex }}"
             "{% if not loop.last %},{% endif %}{% endfor %}"),
      "1/0/4/4,2/1/4/3,3/2/4/2,4/3/4/1");
  EXPECT_EQ(Render("{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}"),
            "231");
  EXPECT_EQ(
      Render("{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}"),
      "4");
  EXPECT_EQ(Render("{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% endfor %}"),
            "1 Hi? 2Go");
  EXPECT_EQ(Render("{% for x in [] %}a{% else %}b{% endfor %}{% for x in nothing %}a{% endfor %}"), "b");
  EXPECT_EQ(Render("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}"), "a1b2");
  EXPECT_EQ(Render("{% for (k, v) in {'a': 1}|items %}{{ k }}{{ v }}{% endfor %}"), "a1");
  EXPECT_EQ(Render("{% for m in messages %}{{ loop.previtem.role if loop.previtem else '-' }} {% endfor %}"),
            "- system user assistant ");
  EXPECT_EQ(
      Render("{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(6, 0, -2) %}{{ i }}{% endfor %}"),
      "012642");
  EXPECT_EQ(Render("{% if false %}a{% elif 1 %}b{% else %}c{% endif %}"), "b");
}

// Each right side was checked against Jinja2 3.1.
TEST(ChatTemplateUnit, Expressions) {
  const std::pair<const char*, const char*> cases[] = {
      {"1 + 2 * 3", "7"},
      {"'a' ~ 1 ~ none ~ true", "a1NoneTrue"},
      {"7 // 2 ~ ' ' ~ -7 // 2 ~ ' ' ~ -7 % 3 ~ ' ' ~ 7 / 2", "3 -4 2 3.5"},
      {"2.0 * 3", "6.0"},
      {"1 < 2 < 3 and not 3 < 2 < 1", "True"},
      {"'b' in 'abc' and 'x' not in ['y'] and 'role' in messages[0]", "True"},
      {"not messages is defined or missing is defined", "False"},
      {"missing is undefined and none is none and 'a' is string and 1 is number", "True"},
      {"messages is iterable and messages[0] is mapping and messages is not mapping", "True"},
      {"3 is odd and 4 is even and 9 is divisibleby 3 and 1 is eq 1 and 'a' is in ['a']", "True"},
      {"'x' if false else 'y'", "y"},
      {"'x' if false", ""},
      {"missing or 'fallback'", "fallback"},
      {"missing | default('d') ~ ('' | default('e', true)) ~ ('' | d('f'))", "de"},
      {"messages[-1].content ~ messages[0]['role'][0] ~ messages[0].role[-1]", "Gosm"},
      {"messages[9].x is defined if messages[9] else 'none there'", "none there"},
      {"[1, 2, 3, 4][1:3] | join('-')", "2-3"},
      {"[1, 2, 3, 4][::-2] | join", "42"},
      {"[1, 2, 3, 4][-3:-1] | join ~ 'abcde'[1:] ~ 'abcde'[:-2] ~ 'abcde'[5:9]", "23bcdeabc"},
      {"'h\xC3\xA9llo'[1] ~ 'h\xC3\xA9llo' | length",
       "\xC3\xA9"
       "5"},
      {"' a b '.strip() ~ '|' ~ ' a'.lstrip() ~ 'a '.rstrip() ~ 'xxaxx'.strip('x')", "a b|aaa"},
      {"'abc'.startswith('ab') and 'abc'.endswith('bc') and not 'abc'.startswith('b')", "True"},
      {"'a,b,c'.split(',')[-1] ~ ' a  b '.split() | length ~ 'a-b-c'.split('-', 1)[1]", "c2b-c"},
      {"'aXbX'.replace('X', '..') ~ 'A'.lower() ~ 'b' | upper ~ 'hELLO' | capitalize", "a..b..aBHello"},
      {"', '.join(['a', 'b']) ~ 'abc'.find('c') ~ 'abc'.find('z')", "a, b2-1"},
      {"{'a': 1, 'b': {'c': [1, true, none, 'x\"y']}} | tojson",
       R"({"a": 1, "b": {"c": [1, true, null, "x\"y"]}})"},
      {"{'a': [1, 2]} | tojson(indent=2)", "{\n  \"a\": [\n    1,\n    2\n  ]\n}"},
      {"'\\u00e9\\n/<>' | tojson", "\"\xC3\xA9\\n/<>\""},
      {"messages | map(attribute='role') | join(',')", "system,user,assistant,user"},
      {"messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join(',')",
       "system,assistant"},
      {"[1, 0, 2] | select | list | length ~ ['a', 'b'] | map('upper') | join", "2AB"},
      {"messages | first | tojson", R"({"role": "system", "content": "Be brief."})"},
      {"(messages | last).content", "Go"},
      {"'12' | int + 1", "13"},
      {"-1 | abs", "1"},
      {"'a' 'b' \"c\"", "abc"},
      {R"('\'\"\\\t\x41\u00e9\q')", "'\"\\\tA\xC3\xA9\\q"},
      {"(1, 2) == [1, 2] or 1 == 1.0 and true == 1 and 'a' != 1", "True"},
      {"{'a': {'b': 1}}.a.b ~ {'a': 1}.get('b', 5) ~ {'a': 1}.keys() | list | join", "15a"},
      {"messages[0].nothing", ""},
      {"'\xE3\x80\x80 x \xC2\xA0' | trim", "x"},
  };
  for (const auto& [expression, expected] : cases) {
    EXPECT_EQ(Render(fmt::format("{{{{ {} }}}}", expression)), expected) << expression;
  }
}

TEST(ChatTemplateUnit, UnsupportedSyntaxIsNamedWithItsLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"\n{% macro f() %}{% endmacro %}", "line 2: statement 'macro'"},
      {"{% include 'x' %}", "line 1: statement 'include'"},
      {"{% set x %}a{% endset %}", "line 1: block set"},
      {"{% set a, b = 1, 2 %}", "line 1: set with several names"},
      {"\n\n{{ x | pprint }}", "line 3: filter 'pprint'"},
      {"{{ x is callable }}", "line 1: test 'callable'"},
      {"{{ x.format(1) }}", "line 1: method 'format'"},
      {"{{ strftime_now('%d') }}", "line 1: function 'strftime_now'"},
      {"{{ 2 ** 3 }}", "line 1: operator '**'"},
      {"{% for a in b recursive %}{% endfor %}", "line 1: recursive for"},
      {"{{ x[0]() }}", "line 1: call of an expression"},
  };
  for (const auto& [source, expected] : cases) {
    const base::Status status = CompileStatus(source);
    EXPECT_EQ(status.code(), base::StatusCode::kUnimplemented) << source;
    EXPECT_EQ(status.message(), fmt::format("chat template: {}", expected));
  }
}

TEST(ChatTemplateUnit, LoadPrefersTheOwnFileAndReadsLists) {
  const fs::path folder = fs::path(testing::TempDir()) / "kvplane_chat_template";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const auto write = [&](const char* name, std::string_view text) { std::ofstream(folder / name) << text; };
  EXPECT_EQ(ChatTemplate::Load(folder).status().code(), base::StatusCode::kNotFound);
  write("tokenizer_config.json", "{}");
  EXPECT_EQ(ChatTemplate::Load(folder).status().code(), base::StatusCode::kNotFound);
  write("tokenizer_config.json", R"({"chat_template": 7})");
  EXPECT_EQ(ChatTemplate::Load(folder).status().code(), base::StatusCode::kCorrupt);
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})");
  EXPECT_EQ(*ChatTemplate::Load(folder)->Render({}, "", "", false), "d");
  write("chat_template.jinja", "own");
  EXPECT_EQ(*ChatTemplate::Load(folder)->Render({}, "", "", false), "own");
  fs::remove_all(folder);
}

TEST(ChatTemplateSafety, MalformedTemplates) {
  for (const char* source : {"{{",
                             "{%",
                             "{#",
                             "{{ }}",
                             "{{ 1",
                             "{{ 'a }}",
                             "{% if %}{% endif %}",
                             "{% if 1 %}",
                             "{% endif %}",
                             "{% else %}",
                             "{% for x in %}{% endfor %}",
                             "{% for in x %}{% endfor %}",
                             "{% for x in y %}",
                             "{% if 1 %}{% endfor %}",
                             "{% set %}",
                             "{% set x = %}",
                             "{{ a b }}",
                             "{{ (1 }}",
                             "{{ [1, }}",
                             "{{ {'a' 1} }}",
                             "{{ a[ }}",
                             "{{ a[1:2:3:4] }}",
                             "{{ a[] }}",
                             "{{ a. }}",
                             "{{ a| }}",
                             "{{ a is }}",
                             "{{ f( }}",
                             "{{ ] }}",
                             "{{ 1 ? 2 }}",
                             "{{ '\\ud800' }}",
                             "{{ '\\x4' }}",
                             "{{ 99999999999999999999 }}",
                             "{% 1 %}",
                             "{% 'endif' %}",
                             "{{ range(1, a=1, 2) }}",
                             "\xFF",
                             "{{ \xC3\xA9 }}",
                             "{{ a } }",
                             "{% if 1 %}{% else %}{% else %}{% endif %}",
                             "{{ not }}",
                             "{{ - }}"}) {
    const base::Status status = CompileStatus(source);
    EXPECT_EQ(status.code(), base::StatusCode::kInvalidArgument) << source << ": " << status.ToString();
  }
}

TEST(ChatTemplateSafety, WrongTypesAreErrors) {
  for (const char* expression : {"missing.field",
                                 "missing[0]",
                                 "'a' + 1",
                                 "1 + none",
                                 "messages + 'a'",
                                 "1 < 'a'",
                                 "-'a'",
                                 "1 // 0",
                                 "1 % 0",
                                 "1 / 0",
                                 "1.0 / 0",
                                 "9223372036854775807 + 1",
                                 "9223372036854775807 * 2",
                                 "(-9223372036854775807 - 1) // -1",
                                 "messages",
                                 "{'a': 1}",
                                 "messages[0].role.items()",
                                 "1 | length",
                                 "[1, 2] | join(3)",
                                 "'a' in 1",
                                 "1 in 'a'",
                                 "5 | list",
                                 "'a'.replace('', 'b')",
                                 "'a'.split('')",
                                 "'a'.strip(1)",
                                 "[1][::0]",
                                 "[1]['a':]",
                                 "1[2:]",
                                 "missing | tojson",
                                 "range(1000000)",
                                 "range(1, 5, 0)",
                                 "range('a')",
                                 "raise_exception()",
                                 "raise_exception('x')",
                                 "{1: 2}",
                                 "1 is divisibleby 0",
                                 "'a' is odd",
                                 "[1] | select('nothing') | list",
                                 "[1] | map('map') | list",
                                 "none.upper()",
                                 "'x' | tojson(indent=99)",
                                 "[[1]] | join"}) {
    const base::Status status = RenderStatus(fmt::format("\n{{{{ {} }}}}", expression));
    EXPECT_EQ(status.code(), base::StatusCode::kInvalidArgument) << expression << ": " << status.ToString();
    EXPECT_NE(status.message().find("line 2"), std::string::npos) << status.message();
  }
  EXPECT_EQ(RenderStatus("{% set a.b = 1 %}").code(), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(RenderStatus("{% for a, b in [1] %}{% endfor %}").code(), base::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateSafety, HostileTemplatesHitABound) {
  const std::string loop10 = "{% for a in range(100000) %}";
  const std::string hostile[] = {
      // 10^15 rounds.
      loop10 + loop10 + loop10 + "{% endfor %}{% endfor %}{% endfor %}",
      // A string that doubles.
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set n.x = n.x.replace('a', 'aa') "
      "%}{% endfor %}",
      // A list that doubles, and one that nests.
      "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(100000) %}{% set n.x = [n.x] %}{% endfor %}",
      "{% for i in range(100000) %}{% set x = namespace() %}{% endfor %}",
      // Much output.
      loop10 + "{% for m in range(100000) %}some words of output{% endfor %}{% endfor %}",
      loop10 + "{{ range(100000) | list | tojson }}{% endfor %}",
      // Deep trees.
      "{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}",
      "{{ " + std::string(5000, '[') + std::string(5000, ']') + " }}",
      "{{ " + std::string(5000, '-') + "1 }}",
  };
  for (const std::string& source : hostile) {
    EXPECT_EQ(RenderStatus(source).code(), base::StatusCode::kResourceExhausted)
        << source.substr(0, 60) << ": " << RenderStatus(source).ToString();
  }
  std::string chains[] = {"{{ a", "{{ 1", "{{ a", "{{ a", "{{ not not"};
  const char* const links[] = {".b", " + 1", "|trim", " if 1 else a", " not"};
  for (size_t i = 0; i < std::size(chains); ++i) {
    for (int k = 0; k < 20'000; ++k) chains[i] += links[i];
    EXPECT_FALSE(CompileStatus(chains[i] + " a }}").ok()) << links[i];
    EXPECT_FALSE(CompileStatus(chains[i] + " }}").ok()) << links[i];
  }
  std::string nested;
  for (int i = 0; i < 5000; ++i) nested += "{% if 1 %}";
  EXPECT_EQ(CompileStatus(nested).code(), base::StatusCode::kResourceExhausted);
  EXPECT_EQ(CompileStatus(std::string(size_t{2} << 20, 'a')).code(), base::StatusCode::kResourceExhausted);
}

TEST(ChatTemplateSafety, NamespacesDoNotCycle) {
  EXPECT_EQ(
      Render("{% set n = namespace() %}{% set n.me = n %}{% set n.list = [n] %}{{ n.me.list[0].me == n }}"),
      "True");
}

TEST(ChatTemplateSafety, MessagesMustBeUtf8) {
  const auto compiled = ChatTemplate::Compile("{{ messages[0].content }}");
  const std::vector<ChatMessage> bad = {{"user", "\xFF"}};
  EXPECT_EQ(compiled->Render(bad, "", "", true).status().code(), base::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::model
