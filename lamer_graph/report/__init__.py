"""A run as something to look at: one page, as a file (`page.write_report`) or served while the run goes on (`server`).

What must stay true: nothing here writes into a run, and a log is only ever looked at a line at a time. `runs` finds
what there is, `index` knows where each trial lies, `trials` and `overview` say what is shown (pure functions over what
was logged), `pictures` and `tokens` what is drawn, `book` holds these together and answers for both kinds of page.
What a log holds is anybody's text: it reaches the page as JSON and is put there as text, never as markup.
"""
