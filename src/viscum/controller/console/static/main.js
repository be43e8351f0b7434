// The page's frame: who is there, which view, the one stream of what is, and the keyboard.

import { byKey } from "./actions.js";
import { follow, get, token } from "./api.js";
import { isOpen, show } from "./dialog.js";
import { announce, attr, facts, h, list, text } from "./dom.js";
import * as events from "./events.js";
import { clock, span } from "./format.js";
import { hostPage } from "./host.js";
import { login } from "./login.js";
import { overview } from "./overview.js";
import { servicePage } from "./service.js";
import { age, onChange, state, take } from "./state.js";
import { tenantsPage } from "./tenants.js";

const OLD = 3; // seconds after which a snapshot is not called live
const $ = (id) => document.getElementById(id);
const main = $("main");
let view = null;
let live = null;
let next = 0; // performance.now() of the next attempt, ms

// ---- views

const TABS = [
	{ path: "#/", title: "Services", open: overview },
	{ path: "#/events", title: "Events", open: events.eventsPage },
	{ path: "#/tenants", title: "Tenants", open: tenantsPage },
	{ path: "#/host", title: "Host", open: hostPage },
];

function opened() {
	const path = location.hash || "#/";
	const service = /^#\/services\/([^/]+)$/.exec(path);
	if (service) return servicePage(decodeURIComponent(service[1]));
	return (TABS.find((tab) => tab.path === path) ?? TABS[0]).open();
}

function go() {
	if (!state.me) return;
	view?.close?.();
	view = opened();
	main.replaceChildren(view.node);
	view.update();
	document.title = `${view.title} · Viscum`;
	tabs();
	scrollTo(0, 0);
}

function tabs() {
	const path = location.hash.startsWith("#/services/") ? "#/" : location.hash || "#/";
	list(
		$("tabs"), state.me ? TABS : [], (tab) => tab.path,
		(tab) => h("a", { href: tab.path }, tab.title),
		(node, tab) => attr(node, "aria-current", tab.path === path ? "page" : null),
	);
}

function update() {
	if (!view) return;
	// a service that has come, or that has gone
	const there = (name) => state.services.get(name);
	if (view.missing ? there(view.missing) : view.service && there(view.service.name) !== view.service) go();
	else view.update();
}
onChange(update);

// ---- the stream

function connect() {
	live?.close();
	live = follow("v1/live", {
		open() {
			if (state.connection === "lost") {
				announce("connected to the controller again");
				who().catch(() => {});
			}
			state.connection = "live";
			state.connected++;
			tick();
		},
		message: (snapshot) => take(snapshot),
		lost(problem, wait) {
			if (state.connection !== "lost") announce("no connection to the controller");
			state.connection = "lost";
			next = performance.now() + wait * 1000;
			tick();
		},
		denied,
	});
}

function denied(problem) {
	live?.close();
	events.quit();
	view?.close?.();
	view = null;
	state.me = null;
	state.services.clear();
	state.heard = 0;
	state.connection = "denied";
	tick();
	tabs();
	const was = token.get();
	token.drop();
	$("leave").hidden = true;
	main.replaceChildren(login(was ? problem.words() : "", start));
}

async function who() {
	state.host = await get("v1/host");
	const { you, role, tenant } = state.host;
	state.me = { name: you, role, tenant };
}

/** With what is known of who this is: a token, or the socket's own word. */
async function start() {
	try {
		await who();
	} catch (error) {
		if (error.status === 401 || error.status === 403) {
			if (!token.get()) return denied(error);
			throw error;
		}
		if (!token.get() || state.connection !== "denied") {
			state.connection = "lost";
			next = performance.now() + 3000;
			setTimeout(begin, 3000);
			tick();
			return;
		}
		throw error;
	}
	state.connection = "wait";
	$("leave").hidden = !token.get();
	text($("host-name"), location.hostname);
	$("leave").title = `Signed in as ${state.me.name} (${state.me.role})`;
	go();
	connect();
	events.listen(denied).catch(() => {});
}

function begin() {
	start().catch((error) => (error.status ? denied(error) : console.error(error)));
}

/** The light at the top, and the bar when nobody answers; each second. */
function tick() {
	const old = age();
	const lost = state.connection === "lost";
	const data = state.heard ? ` ${span(old)} old` : "";
	const [mark, words] =
		state.connection === "denied" ? ["wait", "signed out"]
		: lost ? ["lost", "no connection"]
		: !state.heard ? ["wait", "connecting"]
		: old > OLD ? ["old", `data ${span(old)} old`]
		: ["live", "live"];
	$("live").dataset.state = mark;
	text($("live"), words);
	document.body.classList.toggle("stale", Boolean(state.heard) && (lost || old > OLD));
	$("lost").hidden = !lost;
	if (!lost) return;
	const left = Math.max(0, Math.ceil((next - performance.now()) / 1000));
	const since = state.heard ? ` What you see is${data}, from ${clock(state.at)}.` : "";
	text($("lost-words"), `The controller does not answer.${since} Services and their flows go on without it. Trying again in ${left} s.`);
}

// ---- the frame's own controls

const again = h("button", { type: "button", on: { click: () => (live ? live.again() : begin()) } }, "Try now");
$("lost").append(h("span", { id: "lost-words" }), again);
$("lost").removeAttribute("role"); // it counts down: changes are announced once, elsewhere

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };
text($("theme"), THEMES[window.viscumTheme.chosen()]);
$("theme").addEventListener("click", () => text($("theme"), THEMES[window.viscumTheme.next()]));
$("leave").addEventListener("click", () => {
	token.drop();
	denied({ words: () => "" });
});

const KEYS = [
	["/", "filter"],
	["j", "next service"],
	["k", "previous service"],
	["Enter", "open it"],
	["e", "enable it"],
	["d", "disable it"],
	["D", "drain it"],
	["u", "back to all services"],
	["g", "services, events, tenants, host in turn"],
	["?", "these keys"],
];
function help() {
	const keys = facts();
	keys.update(KEYS);
	show("Keys", keys.node);
}
$("help").addEventListener("click", help);

/** j and k go through the services' links, which the tab key does too. */
function move(step) {
	const links = [...document.querySelectorAll("a.service")];
	const at = links.indexOf(document.activeElement);
	links[Math.min(Math.max(at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step, 0), links.length - 1)]?.focus();
}

document.addEventListener("keydown", (event) => {
	const typing = event.target.closest("input, select, textarea, [contenteditable]");
	if (event.key === "Escape" && typing?.id === "filter") typing.blur();
	if (typing || isOpen() || event.ctrlKey || event.metaKey || event.altKey || !state.me) return;
	const subject = view?.service ?? state.services.get(document.activeElement?.dataset?.service);
	const paths = TABS.map((tab) => tab.path);
	const keys = {
		"/": () => $("filter")?.focus(),
		j: () => move(1),
		k: () => move(-1),
		u: () => (location.hash = "#/"),
		g: () => (location.hash = paths[(paths.indexOf(location.hash || "#/") + 1) % paths.length]),
		"?": help,
	};
	if (keys[event.key]) keys[event.key]();
	else if (!byKey(event.key, subject)) return;
	event.preventDefault();
});

addEventListener("hashchange", () => {
	go();
	main.focus();
});
setInterval(tick, 1000);
begin();
