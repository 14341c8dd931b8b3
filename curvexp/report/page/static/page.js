"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const figures = JSON.parse(document.getElementById("figures").textContent);
const charts = [...document.querySelectorAll(".chart")];

function theme() {
  document.documentElement.classList.toggle("dark", dark.matches);
  const text = dark.matches ? "#ececec" : "#1b1b1b";
  const hover = dark.matches ? "#26292d" : "#ffffff";
  return { "font.color": text, "hoverlabel.bgcolor": hover, "hoverlabel.font.color": text };
}

function narrowed(layout, data, width) {
  const made = structuredClone(layout);
  const named = data.filter((trace) => trace.name && trace.showlegend !== false && !["heatmap", "contour", "surface"].includes(trace.type));
  const rows = Math.ceil(named.length / Math.max(1, Math.floor(width / 230)));
  const legend = named.length > 1 ? 22 * rows + 14 : 0;
  const plot = made.height || 420;
  made.height = plot + legend;
  made.showlegend = named.length > 1;
  if (!made.scene) {
    made.margin = { ...made.margin, l: width < 600 ? 48 : 70, r: 12, b: 60 + legend };
    made.legend = { ...made.legend, y: 0, yref: "container", yanchor: "bottom", x: 0, font: { size: 12 } };
  }
  if (width < 600) {
    made.font = { ...made.font, size: 11 };
    for (const trace of data) {
      const letters = (trace.name || "").match(/&[a-z]+;|./gu) || []; // an escaped sign is one letter
      if (letters.length > 30) trace.name = letters.slice(0, 29).join("") + "…";
    }
    for (const trace of data) for (const holder of [trace, trace.marker]) if (holder?.colorbar) holder.colorbar = { ...holder.colorbar, thickness: 8, title: { ...holder.colorbar.title, side: "right" } };
  }
  return made;
}

async function draw(chart) {
  if (chart.dataset.drawn || chart.closest("[hidden]")) return;
  chart.dataset.drawn = "yes";
  const { data, layout } = figures[Number(chart.dataset.figure)];
  const made = narrowed(layout, data, chart.clientWidth);
  chart.style.minHeight = `${made.height}px`;
  await Plotly.newPlot(chart, data, made, { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false });
  await Plotly.relayout(chart, theme());
}

async function drawAll() {
  document.body.dataset.ready = "no";
  for (const chart of charts) {
    await draw(chart);
    await new Promise((next) => setTimeout(next));
  }
  document.body.dataset.ready = "yes";
}

theme();
dark.addEventListener("change", () => {
  const colours = theme();
  for (const chart of charts) if (chart.dataset.drawn) Plotly.relayout(chart, colours);
});

for (const table of document.querySelectorAll("table.sortable")) {
  const many = table.tBodies[0].rows.length > 25;
  new window.DataTable(table, {
    order: [],
    paging: many,
    pageLength: 25,
    info: many,
    autoWidth: false,
    layout: { topStart: "search", topEnd: null, bottomStart: many ? "info" : null, bottomEnd: many ? "paging" : null },
    language: { search: "Filter:" },
  });
}

for (const select of document.querySelectorAll("select[data-panels]")) {
  select.addEventListener("change", () => {
    for (const option of select.options) document.getElementById(option.value).hidden = option.value !== select.value;
    drawAll();
  });
}

for (const button of document.querySelectorAll("[data-svg]")) {
  button.addEventListener("click", () => {
    const chart = document.querySelector(`[data-figure="${button.dataset.svg}"]`);
    Plotly.downloadImage(chart, { format: "svg", filename: chart.parentElement.querySelector("h3,h4").textContent.replace(/\W+/g, "-"), width: chart.clientWidth, height: chart.clientHeight });
  });
}

drawAll();
