// Owns what makes the overview live: every few seconds it takes the part #live from a fresh copy of the
// page. Without it the page is as good, with a reload.
"use strict";

const SECONDS = 5;
const live = document.getElementById("live");
const said = document.getElementById("live-state");

// The links and buttons of the part.
function stops() {
  return [...live.querySelectorAll("a, button, summary, [tabindex]")];
}

// What a link or button is called and where it leads: the one in focus stays so, wherever it stands by now.
function nameOf(stop) {
  return [stop.getAttribute("href"), stop.getAttribute("aria-label") ?? stop.textContent].join(" ");
}

function put(fresh) {
  const focused = stops().find((stop) => stop === document.activeElement);
  const open = [...live.querySelectorAll("details[open]")].map((one) => one.id);
  live.replaceChildren(...fresh.childNodes);
  for (const id of open) {
    document.getElementById(id)?.setAttribute("open", "");
  }
  if (focused) {
    stops().find((stop) => nameOf(stop) === nameOf(focused))?.focus({ preventScroll: true });
  }
}

function say(text) {
  if (said.textContent !== text) {
    said.textContent = text;
  }
}

async function refresh() {
  if (document.hidden || !getSelection().isCollapsed) {
    return;
  }
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(SECONDS * 1000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (!answer.ok || !fresh) {
      say(`Not live: statesync serve answered ${answer.status}. Reload the page.`);
      return;
    }
    put(fresh);
    say("Live");
  } catch {
    say("Not live: statesync serve does not answer.");
  }
}

if (live) {
  say("Live");
  setInterval(refresh, SECONDS * 1000);
}
