"""Tables say what was measured."""


def test_markdown_gives_ratios_and_the_values_of_the_bases(load):
    table = load("_table")
    base = table.row("plain", "time", 2.0, "s", "plain", 2.0)
    rows = [base, table.row("exact", "time", 7.0, "s", "plain", 2.0)]
    assert table.markdown(rows).splitlines() == [
        "| case | time |",
        "| --- | --- |",
        "| plain | 1 (2 s) |",
        "| exact | 3.50 |",
    ]


def test_in_turn_and_without_the_first_round(load):
    ran = []
    cases = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    measured = load("_table").interleaved(cases, 2, "cpu")
    assert ran == ["a", "b"] * 3
    assert measured.keys() == cases.keys()
    assert all(value >= 0 for times in measured.values() for value in times.values())
