"""One self-contained HTML page over all runs of a folder: opens by double click, needs no network.

    document            the page: its sections in their order, through templates/page.html.j2
    sources             the frames that the sections read
    sections, problems  what each section shows, as values; templates/sections/ has the HTML of each
    tables, figures     rows of the tables; figures, numbered and as JSON
    assets              plotly.js, DataTables, our own CSS and JavaScript, which stand in the page once

All HTML is in the templates, which escape every value. A text from a run is escaped twice over: as HTML by the template, and as Plotly's
own markup by the chart.
"""

from curvexp.report.page.document import page as page
from curvexp.report.page.document import write_page as write_page
