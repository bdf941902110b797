// A slide's page: the overlay on the stage, the lists beside it, and the patch that is picked.
const data = JSON.parse(document.getElementById("data").textContent), scorings = data.scorings, perPx = data.ground.level0_per_px;
const part = name => document.getElementById(name), stageElement = part("stage");
const BLUE = [0, 114, 178], PALE = [247, 244, 240], VERMILLION = [213, 94, 0];  // as in all pictures of hnm
const COLOURS = Array.from({length: 256}, (_, at) => {
  const [from, to, share] = at < 128 ? [BLUE, PALE, at / 128] : [PALE, VERMILLION, (at - 128) / 127];
  return `rgb(${from.map((value, channel) => Math.round(value + (to[channel] - value) * share)).join(",")})`;
});
let now = scorings.length - 1, picked = null, list = [], stage = null;
const hasPicture = data.pictures === null ? () => true : (known => at => known.has(at))(new Set(data.pictures));
const make = (tag, values = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
};
const pictureOf = at => hasPicture(at)
  ? make("img", {src: `../patches/${data.first + at}.jpg`, alt: `patch ${data.first + at}`, loading: "lazy"})
  : make("span", {className: "blank"});
const digits = score => score === null || score === undefined ? "-" : score.toFixed(3);
const isHigh = (scoring, at) => scoring.threshold !== null && scoring.scores[at] !== null && scoring.scores[at] >= scoring.threshold;
const middleOfScale = scoring => scoring.threshold === null ? 0.5 : scoring.threshold;
const colourOf = (score, middle) => {
  const place = score < middle ? 0.5 * score / Math.max(middle, 1e-9) : 0.5 + 0.5 * (score - middle) / Math.max(1 - middle, 1e-9);
  return COLOURS[Math.round(255 * Math.max(0, Math.min(1, place)))];
};

// ---- the overlay
const overlay = make("canvas", {className: "overlay"}), ink = overlay.getContext("2d");
let from = null;  // the lowest score that is coloured; until it is chosen, the round's threshold: the stain beside stays as it is
const lowest = () => from ?? scorings[now]?.threshold ?? 0;
const draw = () => {
  if (!stage) return;
  const width = stageElement.clientWidth, height = stageElement.clientHeight, ratio = window.devicePixelRatio || 1;
  if (overlay.width !== Math.round(width * ratio) || overlay.height !== Math.round(height * ratio)) {
    overlay.width = Math.round(width * ratio);
    overlay.height = Math.round(height * ratio);
  }
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  const {x, y, scale} = stage.view(), by = scale / perPx, side = data.size * by;
  const place = at => [x + data.x[at] * by, y + data.y[at] * by];
  const seen = ([left, top]) => left < width && top < height && left + side > 0 && top + side > 0;
  ink.save();
  if (part("half").checked) {
    ink.beginPath();
    ink.rect(0, 0, width / 2, height);
    ink.clip();
  }
  if (part("overlay").checked && scorings.length) drawScores(place, seen, side);
  if (part("outline").checked) drawOutlines(x, y, by);
  ink.restore();
  if (scorings.length) {
    if (part("pins-candidate").checked) drawPins(scorings[now].candidates, place, seen, side, "#009E73", false);
    if (part("pins-negative").checked) drawPins(scorings[now].negatives, place, seen, side, "#D55E00", true);
  }
  if (picked !== null) drawPicked(place(picked), side);
};
const drawScores = (place, seen, side) => {
  const scoring = scorings[now], middle = middleOfScale(scoring), least = lowest();
  for (const [at, score] of scoring.scores.entries()) {
    if (score === null || score < least || at === picked) continue;  // the picked patch keeps its stain
    const [left, top] = place(at);
    if (!seen([left, top])) continue;
    ink.globalAlpha = Number(part("opacity").value) / 100;
    ink.fillStyle = colourOf(score, middle);
    ink.fillRect(left, top, Math.max(1, side), Math.max(1, side));
    ink.globalAlpha = 1;
    if (side > 6 && isHigh(scoring, at)) {
      ink.strokeStyle = "#000";
      ink.lineWidth = 1;
      ink.strokeRect(left + 1, top + 1, side - 2, side - 2);
    }
  }
};
const drawOutlines = (x, y, by) => {
  for (const [colour, width] of [["#000", 4], ["#FFD600", 2]]) {
    ink.strokeStyle = colour;
    ink.lineWidth = width;
    for (const ring of data.outlines) {
      ink.beginPath();
      for (const [cornerX, cornerY] of ring) ink.lineTo(x + cornerX * by, y + cornerY * by);
      ink.closePath();
      ink.stroke();
    }
  }
};
const drawPins = (ids, place, seen, side, colour, isDiamond) => {
  const reach = Math.max(3, Math.min(8, side / 4));
  for (const at of ids) {
    const [left, top] = place(at);
    if (!seen([left, top])) continue;
    const middleX = left + side / 2, middleY = top + side / 2;
    ink.beginPath();
    if (isDiamond) for (const [dx, dy] of [[0, -1], [1, 0], [0, 1], [-1, 0]]) ink.lineTo(middleX + 1.25 * dx * reach, middleY + 1.25 * dy * reach);
    else ink.arc(middleX, middleY, reach, 0, 2 * Math.PI);
    ink.closePath();
    ink.fillStyle = colour;
    ink.fill();
    ink.strokeStyle = "#fff";
    ink.lineWidth = 1.5;
    ink.stroke();
  }
};
const drawPicked = ([left, top], side) => {
  for (const [colour, width] of [["#fff", 6], ["#0072B2", 3]]) {
    ink.strokeStyle = colour;
    ink.lineWidth = width;
    ink.strokeRect(left - 2, top - 2, side + 4, side + 4);
  }
};

// ---- the lists
const courseOf = at => {
  const course = make("span", {className: "course"});
  for (const [place, scoring] of scorings.entries()) {
    if (place) course.append("→");
    const step = make("b", {textContent: scoring.scores[at] === null ? "-" : scoring.scores[at].toFixed(2), title: scoring.name});
    step.classList.toggle("high", isHigh(scoring, at));
    step.classList.toggle("now", place === now && scorings.length > 1);
    course.append(step);
  }
  return course;
};
const minedOf = at => scorings.map((scoring, place) => [scoring, place]).filter(([scoring]) => scoring.negatives.includes(at)).map(([, place]) => place);
const nextWords = at => {
  const next = scorings[now + 1];
  if (!next || next.scores[at] === null || next.threshold === null || !isHigh(scorings[now], at)) return "";
  const is = isHigh(next, at);
  return make("span", {className: is ? "still" : "gone", textContent: `${next.name}: ${is ? "still called positive" : "no longer called positive"}`});
};
const entryOf = at => {
  const mined = minedOf(at), button = make("button", {type: "button"}), words = make("span");
  words.append(courseOf(at));
  if (mined.length) words.append(make("span", {className: "note", textContent: `mined in ${mined.map(place => scorings[place].name).join(", ")}`}), make("br"));
  words.append(nextWords(at));
  button.dataset.at = at;
  button.append(pictureOf(at), words);
  button.addEventListener("click", () => pick(at, true));
  return make("li", {}, button);
};
const fillLists = () => {
  const scoring = scorings[now] || {hard: [], high: []};
  part("hard").replaceChildren(...scoring.hard.map(entryOf));
  part("high").replaceChildren(...scoring.high.map(entryOf));
  part("high-heading").hidden = !scoring.high.length;
  const heading = data.negative ? "Hardest negatives" : "Hardest known negatives";
  part("hard-heading").textContent = scoring.hard.length ? `${heading}, ${scoring.name}` : "";
  list = [...scoring.hard, ...scoring.high.filter(at => !scoring.hard.includes(at))];
  mark();
};
const mark = () => {
  for (const button of document.querySelectorAll(".list button")) button.classList.toggle("picked", Number(button.dataset.at) === picked);
};

// ---- the patch that is picked
const row = (name, ...value) => make("tr", {}, make("td", {textContent: name}), make("td", {}, ...value));
const rankOf = at => {
  const scoring = scorings[now], rank = scoring.ranks[at];
  const isNegative = data.negative || (data.truth && data.truth[at] === 0);
  if (!rank) return "not scored";
  const words = `${rank.toLocaleString("en")} of ${scoring.num_ranked.toLocaleString("en")}`;
  return isNegative ? words : `would be ${words}: it is of no negative slide`;
};
const showPatch = at => {
  const facts = make("table", {}, make("tbody", {},
    row("patch", `${data.first + at}`), row("x, y", `${data.x[at]}, ${data.y[at]} (level-0 px, side ${data.size})`),
    row("scores", courseOf(at)), row("hardest of the cohort", rankOf(at))));
  const body = facts.tBodies[0], mined = minedOf(at), truth = data.truth ? data.truth[at] : -1;
  if (mined.length) body.append(row("hard negative of", mined.map(place => scorings[place].name).join(", ")));
  const candidate = scorings.filter(scoring => scoring.candidates.includes(at)).map(scoring => scoring.name);
  if (candidate.length) body.append(row("candidate of", candidate.join(", ")));
  if (truth >= 0) body.append(row("truth", truth ? "positive" : "negative"));
  const still = scorings.length ? nextWords(at) : "";
  if (still) body.append(row("next round", still));
  const told = hasPicture(at) ? "" : make("p", {className: "note", textContent: "Its picture is not in this folder, which has those of the lists: zoom, or hnm view without --out."});
  part("patch").replaceChildren(make("div", {className: "pair"}, pictureOf(at), facts), told);
  part("patch").hidden = false;
};
const pick = (at, isFlying) => {
  picked = at;
  showPatch(at);
  mark();
  const isNarrow = matchMedia("(max-width: 760px)").matches;
  if (isFlying) {
    stage.flyTo((data.x[at] + data.size / 2) / perPx, (data.y[at] + data.size / 2) / perPx, 6 * data.size / perPx);
    if (isNarrow) stageElement.scrollIntoView({block: "nearest"});
    else document.querySelector(".list button.picked")?.scrollIntoView({block: "nearest"});
  }
  history.replaceState(null, "", `#p=${data.first + at}`);
  draw();
};
const step = by => {
  if (!list.length) return;
  const at = list.indexOf(picked);
  pick(list[at < 0 ? (by > 0 ? 0 : list.length - 1) : (at + by + list.length) % list.length], true);
};
const patchAt = (screenX, screenY) => {  // the highest of those that lie there
  const {x, y, scale} = stage.view(), by = scale / perPx, levelX = (screenX - x) / by, levelY = (screenY - y) / by;
  const score = at => scorings.length ? scorings[now].scores[at] ?? -1 : -1;
  let found = null;
  for (let at = 0; at < data.x.length; at++) {
    if (levelX < data.x[at] || levelX >= data.x[at] + data.size || levelY < data.y[at] || levelY >= data.y[at] + data.size) continue;
    if (found === null || score(at) > score(found)) found = at;
  }
  return found;
};

// ---- controls
const tellCalled = () => {
  const scoring = scorings[now];
  part("from").value = String(Math.round(1000 * lowest()));
  part("from-value").textContent = lowest().toPrecision(2);
  if (!scoring) { part("called").textContent = "No round has scored this slide."; return; }
  const scored = scoring.scores.filter(score => score !== null).length, high = scoring.scores.filter((_, at) => isHigh(scoring, at)).length;
  part("called").textContent = scoring.threshold === null
    ? `${scored} patches. None is called positive: there is no negative validation patch to choose a threshold on. Colours part at 0.5.`
    : `${high} of ${scored} patches called positive, from ${scoring.threshold.toPrecision(3)} on (framed black): chosen on ${scoring.source}.`;
};
const chooseRound = place => {
  now = place;
  part("round").value = String(place);
  fillLists();
  tellCalled();
  if (picked !== null) showPatch(picked);
  draw();
};
for (const [place, scoring] of scorings.entries()) part("round").append(make("option", {value: String(place), textContent: scoring.name}));
part("round").addEventListener("change", () => chooseRound(Number(part("round").value)));
part("from").addEventListener("input", () => { from = Number(part("from").value) / 1000; });
for (const name of ["opacity", "from", "overlay", "half", "pins-negative", "pins-candidate", "outline"]) {
  part(name).addEventListener("input", () => { tellCalled(); draw(); });
}
part("outline-label").hidden = !data.outlines.length;
for (const [name, ids] of [["pins-negative", "negatives"], ["pins-candidate", "candidates"]]) {
  part(name).parentElement.hidden = !scorings.some(scoring => scoring[ids].length);
}
part("in").addEventListener("click", () => stage.zoom(1.5));
part("out").addEventListener("click", () => stage.zoom(1 / 1.5));
part("home").addEventListener("click", () => stage.home());
const toggle = name => { part(name).checked = !part(name).checked; draw(); };
const KEYS = {
  n: () => step(1), p: () => step(-1), "+": () => stage.zoom(1.5), "=": () => stage.zoom(1.5), "-": () => stage.zoom(1 / 1.5),
  0: () => stage.home(), o: () => toggle("overlay"), h: () => toggle("half"), r: () => scorings.length && chooseRound((now + 1) % scorings.length),
};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});
const fromAddress = () => {
  const at = Number(new URLSearchParams(location.hash.slice(1)).get("p") ?? NaN) - data.first;
  if (Number.isInteger(at) && at >= 0 && at < data.x.length && at !== picked) pick(at, true);
};
window.addEventListener("hashchange", fromAddress);
const base = decodeURIComponent(location.pathname.split("/").pop()).replace(/\.html$/, "") + "_files";
const makeStage = typeof OpenSeadragon === "undefined" ? plainStage : openSeadragonStage;
stage = makeStage(stageElement, data.ground, base, {
  ready: () => { chooseRound(now); fromAddress(); }, moved: draw, clicked: (x, y) => { const at = patchAt(x, y); if (at !== null) pick(at, false); },
});
stageElement.append(overlay);
