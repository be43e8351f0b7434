// What can be done to a service, to whom it is allowed, and what it will do, said beforehand.

import { request } from "./api.js";
import { ask } from "./dialog.js";
import { h, toast } from "./dom.js";
import { plural } from "./format.js";
import * as model from "./model.js";
import { state } from "./state.js";

const RANKS = ["viewer", "operator", "admin"];
const SPAN = "([0-9]+(\\.[0-9]+)?(d|h|m|s|ms))+";

/** Why this page's user may not change anything; "": they may. */
export function forbidden() {
	const role = state.me?.role;
	if (!role || RANKS.indexOf(role) >= RANKS.indexOf("operator")) return "";
	return `your role is ${role}; changing services takes an operator`;
}

function span(name, label, value = "") {
	return h(
		"label", { class: "field" }, label,
		h("input", { name, value, pattern: SPAN, placeholder: "10m", size: 8, autocomplete: "off", title: "a number and d, h, m or s, as 30s or 1h30m" }),
	);
}

function choice(name, options, chosen) {
	return h(
		"fieldset", {}, h("legend", {}, "Open flows"),
		options.map(([value, words, extra]) => {
			const radio = h("input", { type: "radio", name, value, checked: value === chosen });
			const picks = { on: { input: () => (radio.checked = true) } };
			return h("div", { class: "row" }, h("label", { class: "check" }, radio, words), extra && h("span", picks, extra));
		}),
	);
}

const flowsOf = (service) => plural(model.status(service.raw).flows ?? 0, "open flow");
const post = (service, verb, body) => request("POST", `v1/services/${encodeURIComponent(service.name)}/${verb}`, body);
const backIn = (form) => (form.elements.for.value ? ` It turns back by itself after ${form.elements.for.value}.` : "");
const drainOf = ({ spec }) => (spec ? (spec.run?.drain ?? "1m") : "its drain limit");

function enable(service) {
	return ask({
		title: `Enable ${service.name}?`,
		fields: [span("for", "For how long (empty: until changed)")],
		sentence: (form) =>
			`New flows go to the edge${share(service)}. Flows that are on the cloud stay there until they end.${backIn(form)}`,
		label: "Enable",
		act: (form) => post(service, "enable", form.elements.for.value ? { for: form.elements.for.value } : {}),
	});
}

function share(service) {
	const asked = model.status(service.raw).share;
	return asked < 100 ? `, ${asked} % of them` : "";
}

function disable(service, chosen = "stay") {
	const seconds = h("input", { name: "seconds", type: "number", min: 0, max: 86400, value: 30, "aria-label": "seconds until they are reset" });
	const fate = choice(
		"fate",
		[
			["stay", "stay until they end"],
			["drain", "are reset after", h("span", { class: "row" }, seconds, "s")],
			["now", "are reset at once"],
		],
		chosen,
	);
	return ask({
		title: `${chosen === "stay" ? "Disable" : "Drain"} ${service.name}?`,
		fields: [fate, span("for", "For how long (empty: until changed)")],
		sentence(form) {
			const flows = flowsOf(service);
			const ends = {
				stay: model.staying(model.status(service.raw).flows ?? 0),
				drain: `Of ${flows}, what is left after ${seconds.value} s is reset: those clients reconnect, to the cloud.`,
				now: `${flows} reset at once: those clients reconnect, to the cloud.`,
			};
			return `New flows go to the cloud; the server keeps running. ${ends[form.elements.fate.value]}${backIn(form)}`;
		},
		label: chosen === "stay" ? "Disable" : "Drain",
		tone: chosen === "stay" ? "primary" : "danger",
		act(form) {
			const body = {};
			if (form.elements.for.value) body.for = form.elements.for.value;
			if (form.elements.fate.value === "drain") body.drain = `${Number(seconds.value)}s`;
			if (form.elements.fate.value === "now") body.now = true;
			return post(service, "disable", body);
		},
	});
}

function restart(service) {
	const beside = service.spec?.upgrade !== "replace";
	return ask({
		title: `Restart ${service.name}?`,
		sentence: () =>
			beside
				? `New processes of the same spec start beside the old ones and take new flows once they listen. The old ones keep their ${flowsOf(service)} for ${drainOf(service)} at most.`
				: `This service can't run twice: new flows go to the cloud until its ${flowsOf(service)} ended, in ${drainOf(service)} at most, and the new processes listen.`,
		label: "Restart",
		act: () => post(service, "restart", {}),
	});
}

function stop(service) {
	return ask({
		title: `Stop ${service.name}?`,
		sentence: () =>
			`New flows go to the cloud. The server ends with the last of its ${flowsOf(service)}; what is left after ${drainOf(service)} is reset. The spec is kept: Start begins it again.`,
		label: "Stop",
		tone: "danger",
		act: () => post(service, "stop", {}),
	});
}

function start(service) {
	return ask({
		title: `Start ${service.name}?`,
		sentence: () => "The server is started. It takes new flows once it listens, unless it is disabled.",
		label: "Start",
		act: () => post(service, "start", {}),
	});
}

// unfit(status): why it makes no sense now, or ""
const ACTIONS = [
	{ id: "enable", title: "Enable", key: "e", open: enable, done: "enabled", unfit: (s) => (stopped(s) ? "it is stopped" : s.steering === "edge" && s.turns_back_in === null ? "it is enabled already" : "") },
	{ id: "disable", title: "Disable", key: "d", open: disable, done: "disabled", unfit: (s) => (stopped(s) ? "it is stopped" : s.steering !== "edge" ? "it is disabled already" : "") },
	{ id: "drain", title: "Drain", key: "D", open: (service) => disable(service, "drain"), done: "draining", unfit: (s) => (stopped(s) ? "it is stopped" : "") },
	{ id: "restart", title: "Restart", open: restart, done: "restarting", unfit: (s) => (s.state === "stopped" ? "it is stopped" : "") },
	{ id: "stop", title: "Stop", open: stop, done: "stopping", unfit: (s) => (stopped(s) ? "it is stopped, or about to be" : "") },
	{ id: "start", title: "Start", open: start, done: "started", unfit: (s) => (["stopped", "draining", "dead"].includes(s.state) ? "" : "it runs") },
];
const stopped = (s) => ["stopped", "draining", "removing"].includes(s.state);

const why = (action, service) => forbidden() || action.unfit(model.status(service.raw));

async function perform(action, service) {
	const no = why(action, service);
	if (no) return toast(`${service.name}: ${no}`);
	if (await action.open(service)) toast(`${service.name}: ${action.done}`);
}

/** By keyboard: e, d or D on a service. Whether the key is one of these. */
export function byKey(key, service) {
	const action = ACTIONS.find((a) => a.key === key);
	if (!action || !service) return false;
	perform(action, service);
	return true;
}

/** The buttons of a service. What can't be done now says why when asked, and stays reachable. */
export function buttons(service) {
	const made = ACTIONS.map((action) => ({
		action,
		node: h("button", { type: "button", "aria-keyshortcuts": action.key, on: { click: () => perform(action, service) } }, action.title),
	}));
	const node = h("div", { class: "row actions", role: "group", "aria-label": "Actions" }, made.map((m) => m.node));
	return {
		node,
		update() {
			for (const { action, node: button } of made) {
				const no = why(action, service);
				button.setAttribute("aria-disabled", String(Boolean(no)));
				button.title = no || (action.key ? `Key: ${action.key}` : "");
			}
		},
	};
}
