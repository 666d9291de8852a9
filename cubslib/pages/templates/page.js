"use strict";
// Every page: colours, code and contents. A page read from disk may have no storage.
const kept = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* not remembered */ } },
};

{
  const names = ["auto", "light", "dark"], button = document.getElementById("theme");
  let theme = names.includes(kept.get("theme")) ? kept.get("theme") : "auto";
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = "◐ " + theme;
    button.setAttribute("aria-label", "Colours: " + (theme === "auto" ? "auto, as the system" : theme));
  };
  button.addEventListener("click", () => {
    theme = names[(names.indexOf(theme) + 1) % names.length];
    kept.set("theme", theme);
    show();
  });
  show();
}

{
  const button = document.getElementById("code");
  const show = (open) => {
    button.setAttribute("aria-pressed", String(open));
    button.textContent = open ? "Hide all code" : "Show all code";
    for (const part of document.querySelectorAll("details.code")) part.open = open;
  };
  if (button) {
    show(kept.get("code") === "open");
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-pressed") !== "true";
      kept.set("code", open ? "open" : "folded");
      show(open);
    });
  }
}

{
  // The contents follow the reader: the last heading above the upper third is where one is.
  const links = [...document.querySelectorAll(".contents a")];
  const heads = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
  const follow = () => {
    let here = 0;
    heads.forEach((head, i) => { if (head && head.getBoundingClientRect().top < innerHeight / 3) here = i; });
    links.forEach((link, i) => i === here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
  };
  if (links.length) {
    addEventListener("scroll", follow, { passive: true });
    follow();
  }
  const narrow = matchMedia("(max-width: 64rem)");
  const contents = document.querySelector(".contents details");
  if (contents && narrow.matches) contents.open = false;
}

{
  // What a link leads to is unfolded; paper shows what is folded on the index.
  const unfold = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = place; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll(".drawn, .handout")) part.open = true;
  });
}
