"""Scripts: parsed once, checked before anything happens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.simulator.catalog import answered_name, charge, usd
from worker.simulator.generation import _WORDS
from worker.simulator.script import STEPS, UnknownStep, last_prompt, parse, plain_model, script_of, step_of


def test_steps_follow_each_other_and_the_last_one_repeats() -> None:
    """One step per attempt."""
    steps = parse("503x2, cut@3 ,ok")
    assert [step.text for step in steps] == ["503", "503", "cut@3", "ok"]
    assert [step_of(steps, position).text for position in (0, 1, 2, 3, 9)] == ["503", "503", "cut@3", "ok", "ok"]


def test_parts_add_up() -> None:
    """`+` joins what is to happen at once."""
    step = parse("429+ra=2")[0]
    assert (step.count("status"), step.value("ra")) == (429, "2")
    step = parse("tokens=200+slow=0.5+cut@10")[0]
    assert (step.count("tokens"), step.number("slow"), step.count("cut")) == (200, 0.5, 10)


def test_a_value_is_percent_decoded() -> None:
    """So that a URL may hold the script's own marks."""
    assert parse("redirect=http://h:1/a%2Cb%2Bc")[0].value("redirect") == "http://h:1/a,b+c"
    assert parse("redirect=http://hostx2")[0].value("redirect") == "http://hostx2"


def test_rst_has_three_places() -> None:
    """Before the headers, after them, after some tokens."""
    assert parse("rst")[0].parts == {"rst": None}
    assert parse("rst@headers")[0].parts == {"rst@headers": None}
    assert parse("rst@4")[0].count("rst") == 4


@pytest.mark.parametrize(
    "script", ["explode", "cut", "cut@x", "cut@-1", "ok=1", "tokens=nan", "99", "ok,,okk", "redirect"]
)
def test_what_cannot_be_read_is_named(script: str) -> None:
    """The message holds the step."""
    with pytest.raises(UnknownStep, match=script.rsplit(",", maxsplit=1)[-1]):
        parse(script)


def test_an_absurd_script_is_refused() -> None:
    """A repeat is no way to fill the memory."""
    with pytest.raises(UnknownStep, match="more than"):
        parse("503x9999,503x9999")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_script_or_is_refused(script: str) -> None:
    """Nothing else comes out of `parse`."""
    try:
        steps = parse(script)
    except UnknownStep:
        return
    assert steps
    assert all(set(step.parts) <= set(STEPS) for step in steps)


def test_a_script_comes_from_the_model_or_from_the_last_user_message() -> None:
    """The model's name goes first; only the last user message counts."""
    assert script_of("sim:503,ok", "[[sim: cut@1]]") == "503,ok"
    assert script_of("openai/gpt-5@sim:cut@3,ok", "") == "cut@3,ok"
    assert script_of("openai/gpt-5", "please [[sim: cut@1, ok]] now") == " cut@1, ok"
    assert script_of("openai/gpt-5", "please") is None
    assert (plain_model("sim:ok"), plain_model("a/b@sim:cut@3")) == ("sim", "a/b")
    turns = [
        {"role": "user", "content": "[[sim: 500]]"},
        {"role": "user", "content": [{"type": "text", "text": "last"}]},
        {"role": "assistant", "content": "[[sim: 400]]"},
    ]
    assert last_prompt({"messages": turns}) == "last"
    assert last_prompt({"input": "text"}) == "text"
    assert last_prompt({"input": [{"role": "user", "content": [{"type": "input_text", "text": "item"}]}]}) == "item"


def test_the_answer_spells_the_model_without_provider_and_with_a_dotted_version() -> None:
    """As the provider does (its examples)."""
    assert answered_name("openai/gpt-5-1-chat-latest") == "gpt-5.1-chat-latest"
    assert answered_name("gpt-4o-mini") == "gpt-4o-mini"
    assert answered_name("a/b/claude-4-5") == "claude-4.5"


def test_charges_are_whole_credits_rounded_up() -> None:
    """A token of input costs 3.25 credits at 1.625 USD a million."""
    assert charge("openai/gpt-5", 1, 0) == 4
    assert charge("openai/gpt-5", 1_000_000, 1_000_000) == 2_000_000 * 14.625
    assert str(usd(1089)) == "0.0005445"


def test_a_byte_picks_a_word_without_bias() -> None:
    """64 different words, some of several bytes."""
    assert len(set(_WORDS)) == 64
    assert any(len(word.encode()) > len(word) for word in _WORDS)
