import pytest

from lgmnet.report import replace_block

PAGE = """Before.

<!-- table: one -->
old
<!-- /table -->
Between.
<!-- table: two -->
<!-- /table -->
"""


def test_a_table_is_exchanged_and_the_rest_is_left_alone():
    page = replace_block(PAGE, "one", "| a |\n| b |\n")
    assert page == PAGE.replace("old", "| a |\n| b |")
    page = replace_block(page, "two", "| c |")
    assert "two -->\n| c |\n<!-- /table -->\n" in page
    assert replace_block(page, "two", "| c |") == page


@pytest.mark.parametrize(
    "page",
    [
        "no table",
        PAGE.replace("<!-- /table -->", ""),
        PAGE.replace("<!-- /table -->", "", 1),  # would take the text between the tables along
        PAGE + PAGE,
    ],
)
def test_marks_that_are_missing_or_ambiguous_are_refused(page):
    with pytest.raises(ValueError, match="expected the line <!-- table: one --> once"):
        replace_block(page, "one", "| a |")
