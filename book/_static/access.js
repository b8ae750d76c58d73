// What keyboards and screen readers need and the theme does not give. Found by axe, which tests/test_site.py runs.
"use strict";

// The logo beside the navigation belongs to it.
for (const item of document.querySelectorAll(".sidebar-primary-item:has(> .logo)")) {
  item.setAttribute("role", "navigation");
  item.setAttribute("aria-label", "Front page");
}

// An arrow that opens a part of the table of contents has a name.
for (const arrow of document.querySelectorAll(".has-children > details > summary")) {
  arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a").textContent}`);
}

// A list of parameters in a signature has no terms, so it is no list of definitions.
for (const list of document.querySelectorAll("dt.sig > dl")) list.setAttribute("role", "presentation");

// The entries of a list are its items.
for (const entry of document.querySelectorAll("[role=list] > .citation")) entry.setAttribute("role", "listitem");

// What scrolls sideways can be scrolled by keyboard.
const watch = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll(".cell figure, .cell_output .text_html, .pst-scrollable-table-container")) {
  watch.observe(box);
}
