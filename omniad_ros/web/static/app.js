// The operator's page: verdicts with one click or key, zones drawn on the plan, a wipe between two pictures, points to turn, and a
// page that follows a patrol as it runs. No part comes from elsewhere.
"use strict";

const { site, finding } = document.body.dataset;
const base = `/api/sites/${encodeURIComponent(site || "")}`;

function say(text, bad = false) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.className = bad ? "bad" : "";
  said.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.hidden = true; }, bad ? 8000 : 2500);
}

async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(base + path, {
      method, headers: { "X-Omniad": "1", "Content-Type": "application/json" }, body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("the server does not answer; is 'omniad serve' still running?");
  }
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Error(typeof said.detail === "string" ? said.detail : said.detail.map((d) => d.msg).join("; "));
}

// ---- a page that is brought up to date: what stands in <main> and <header> is taken from the page as it is now

async function refresh() {
  if (document.body.dataset.busy) return;
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const typed = document.querySelector("#verdict input[name=comment]");
  if ((typed && typed.value) || document.body.dataset.busy) return;
  for (const id of ["wipe", "cloud"]) {  // as somebody has moved them
    const old = document.getElementById(id), now = page.getElementById(id);
    if (old && now && pictures(old) === pictures(now)) now.replaceWith(old);
  }
  for (const part of ["header", "main"]) document.querySelector(part).replaceWith(page.querySelector(part));
  for (const name of ["next", "previous"]) {
    if (page.body.dataset[name]) document.body.dataset[name] = page.body.dataset[name];
    else delete document.body.dataset[name];
  }
  prepare();
}

const pictures = (element) => [...element.querySelectorAll("img")].map((image) => image.getAttribute("src")).join(" ");

function follow() {
  let first = true;
  const events = new EventSource(`${base}/events`);
  events.addEventListener("changed", () => { if (!first) refresh(); first = false; });
  events.onerror = () => { first = false; };
}

// ---- verdicts

async function give(verdict) {
  const comment = document.querySelector("#verdict input[name=comment]");
  try {
    const now = await ask("POST", `/findings/${finding}/verdict`, { verdict, comment: comment.value });
    comment.value = "";
    say(`${now.name}: ${now.verdict}`);
    await refresh();
  } catch (error) { say(error.message, true); }
}

async function undo() {
  try {
    const now = await ask("DELETE", `/findings/${finding}/verdict`);
    say(`${now.name}: ${now.verdict || "no verdict"}`);
    await refresh();
  } catch (error) { say(error.message, true); }
}

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { j: "next", k: "previous" };
  if (event.key in steps && document.body.dataset[steps[event.key]]) location.href = document.body.dataset[steps[event.key]];
  else if (!finding) return;
  else if (event.key === "a") give("accepted");
  else if (event.key === "c") give("confirmed");
  else if (event.key === "u") undo();
});

// ---- zones

function drawing(form) {
  const plan = document.querySelector("svg.plan"), [keep, hint] = [form.querySelector("[type=submit]"), form.querySelector(".hint")];
  const corners = [], shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
  shape.setAttribute("class", "zone drawn");
  const { left, top, unit } = plan.dataset;
  const show = () => {
    shape.setAttribute("points", corners.map((c) => c.join(",")).join(" "));
    keep.hidden = corners.length < 3;
  };
  const click = (event) => {
    event.preventDefault();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(plan.getScreenCTM().inverse());
    corners.push([at.x.toFixed(1), at.y.toFixed(1)]);
    show();
  };
  const key = (event) => {
    if (event.key === "Escape") end();
    if (event.key === "Backspace" && !event.target.matches("input")) { corners.pop(); show(); }
  };
  const end = () => {
    plan.classList.remove("drawing-zone");
    plan.removeEventListener("click", click);
    document.removeEventListener("keydown", key);
    shape.remove();
    keep.hidden = hint.hidden = true;
    delete document.body.dataset.busy;
    form.onsubmit = null;
  };
  document.body.dataset.busy = "1";
  plan.append(shape);
  plan.classList.add("drawing-zone");
  plan.addEventListener("click", click);
  document.addEventListener("keydown", key);
  hint.hidden = false;
  form.onsubmit = async (event) => {
    event.preventDefault();
    const outline = corners.map(([x, y]) => [Number(left) + x / unit, Number(top) - y / unit]);
    const { name, low, high } = Object.fromEntries(new FormData(form));
    try {
      await ask("POST", "/zones", { name, low: Number(low), high: Number(high), outline });
      end();
      say(`zone '${name}' is ignored from now on`);
      await refresh();
    } catch (error) { say(error.message, true); }
  };
}

// ---- the map's points around a finding

async function cloud(canvas) {
  const { xyz, rgb, size } = await ask("GET", `/findings/${finding}/points`);
  const pen = canvas.getContext("2d"), count = xyz.length / 3;
  let turn = -0.6, tilt = 0.5, near = 1;
  const place = (x, y, z) => {
    const a = x * Math.cos(turn) - y * Math.sin(turn), b = x * Math.sin(turn) + y * Math.cos(turn);
    const up = z * Math.cos(tilt) + b * Math.sin(tilt), deep = 4 + b * Math.cos(tilt) - z * Math.sin(tilt);
    const scale = 560 * near / Math.max(deep, 0.3);
    return [canvas.width / 2 + a * scale, canvas.height / 2 - up * scale, deep];
  };
  const draw = () => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const order = [...Array(count).keys()].map((i) => [...place(xyz[3 * i], xyz[3 * i + 1], xyz[3 * i + 2]), i]).sort((a, b) => b[2] - a[2]);
    for (const [x, y, deep, i] of order) {
      pen.fillStyle = `rgb(${rgb[3 * i]} ${rgb[3 * i + 1]} ${rgb[3 * i + 2]})`;
      const side = Math.min(6, 9 * near / deep + 1);
      pen.fillRect(x - side / 2, y - side / 2, side, side);
    }
    const [w, d, h] = size.map((v) => Math.max(v, 0.02) / 2), corner = (i) => place(i & 1 ? w : -w, i & 2 ? d : -d, i & 4 ? h : -h);
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--bad");
    pen.lineWidth = 2.5;
    pen.beginPath();
    for (let i = 0; i < 8; i++) for (const bit of [1, 2, 4]) if (!(i & bit)) { pen.moveTo(...corner(i).slice(0, 2)); pen.lineTo(...corner(i | bit).slice(0, 2)); }
    pen.stroke();
  };
  canvas.onpointerdown = (event) => canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = (event) => {
    if (!event.buttons) return;
    turn += event.movementX / 150;
    tilt = Math.min(1.5, Math.max(-0.3, tilt + event.movementY / 150));
    draw();
  };
  canvas.onwheel = (event) => { event.preventDefault(); near = Math.min(8, Math.max(0.3, near * Math.exp(-event.deltaY / 500))); draw(); };
  draw();
}

// ---- what stands in <main> now

function prepare() {
  const verdict = document.getElementById("verdict"), zone = document.getElementById("zone"), wipe = document.getElementById("wipe");
  if (verdict) {
    verdict.onsubmit = (event) => event.preventDefault();
    for (const button of verdict.querySelectorAll("[data-verdict]")) button.onclick = () => give(button.dataset.verdict);
    document.getElementById("undo").onclick = undo;
  }
  if (zone) document.getElementById("draw").onclick = () => { if (zone.reportValidity()) drawing(zone); };
  for (const button of document.querySelectorAll("[data-remove-zone]")) {
    button.onclick = async () => {
      try { await ask("DELETE", `/zones/${button.dataset.removeZone}`); await refresh(); } catch (error) { say(error.message, true); }
    };
  }
  if (wipe && wipe.querySelectorAll("img").length === 2) {
    const slider = wipe.querySelector("input"), over = wipe.querySelectorAll("img")[1];
    slider.oninput = () => { over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; };
  }
  const canvas = document.getElementById("cloud");
  if (canvas && !canvas.onwheel) cloud(canvas).catch((error) => say(error.message, true));
}

prepare();
if (document.body.dataset.live) follow();
