"use strict";
// Every page: colours, code and contents. A page read from disk may have no storage.
const kept = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* not remembered */ } },
};
const named = (hash) => document.getElementById(decodeURIComponent(hash.slice(1)));

{
  const names = ["auto", "light", "dark"], button = document.getElementById("theme");
  let theme = names.includes(kept.get("theme")) ? kept.get("theme") : "auto";
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = "◐ " + theme;
    const said = theme === "auto" ? "auto, as the system" : theme;
    button.setAttribute("aria-label", "Colours: " + said);
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
  // The contents follow the reader: one is where the last heading above the upper third is; at the
  // page's end, where no heading can come up to it, that line sinks to the window's foot.
  const links = [...document.querySelectorAll(".contents a")];
  const heads = links.map((link) => named(link.hash));
  const follow = () => {
    const left = document.documentElement.scrollHeight - innerHeight - scrollY;
    const line = Math.max(innerHeight / 3, innerHeight - left);
    let here = 0;
    heads.forEach((head, i) => {
      if (head && head.getBoundingClientRect().top < line) here = i;
    });
    links.forEach((link, i) => {
      if (i === here) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
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
    for (let part = named(location.hash); part; part = part.parentElement) {
      if (part.tagName === "DETAILS") part.open = true;
    }
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll(".drawn, .handout")) part.open = true;
  });
}
