// "Why does this client not reach the edge?": the loaded program's own answer.

import { get } from "./api.js";
import { h, list, panel, text } from "./dom.js";
import * as model from "./model.js";

const WORDS = { edge: "to the edge", cloud: "to the cloud", dropped: "dropped" };
const TONES = { edge: "good", cloud: "cloud", dropped: "bad" };

const wrap = (address) => (address.includes(":") && !address.startsWith("[") ? `[${address}]` : address);

export function explainForm(service) {
	const s = model.status(service.raw);
	const targets = model.targets(service.raw).filter((t) => !t.includes("/"));
	const [port, proto] = (s.ports?.[0] ?? "443/tcp").split("/");
	const client = h("input", { name: "client", required: true, placeholder: "10.1.0.2 or 10.1.0.2:40000", size: 20, autocomplete: "off", spellcheck: "false" });
	const kind = h("select", { name: "kind" }, [
		["tcp syn", "TCP, new connection"],
		["tcp ack", "TCP, packet of a connection"],
		["udp", "UDP"],
		["udp quic", "UDP, QUIC Initial"],
		["icmp", "ping"],
	].map(([value, words]) => h("option", { value, selected: value.startsWith(proto) && value.endsWith("syn") }, words)));
	kind.value = proto === "udp" ? "udp" : "tcp syn";
	const target = h("input", { name: "target", required: true, list: "explain-targets", value: targets[0] ?? "", size: 18, autocomplete: "off", spellcheck: "false" });
	const number = h("input", { name: "port", type: "number", min: 1, max: 65535, value: port.split("-")[0] || 443 });
	const on = h("select", { name: "on" }, (s.interfaces ?? []).map((name) => h("option", { value: name }, name)));
	const answer = h("div", { class: "answer", role: "status" });
	const form = h(
		"form", { class: "row end" },
		h("label", { class: "field" }, "Client", client), h("label", { class: "field" }, "Packet", kind),
		h("label", { class: "field" }, "Target", target), h("datalist", { id: "explain-targets" }, targets.map((t) => h("option", { value: t }))),
		h("label", { class: "field" }, "Port", number), s.interfaces?.length > 1 && h("label", { class: "field" }, "Interface", on),
		h("button", { class: "primary", type: "submit" }, "Explain"),
	);

	/** As tcpdump would show it. */
	function packet() {
		const [protocol, flag] = kind.value.split(" ");
		number.disabled = protocol === "icmp";
		const source = client.value.trim();
		if (protocol === "icmp") return `icmp ${source} > ${target.value.trim()}`;
		const bare = source.split(":").length > 2 ? wrap(source) : source;
		const from = /\]:\d+$|^[^:]*:\d+$/.test(bare) ? bare : `${bare}:40000`;
		return `${protocol} ${from} > ${wrap(target.value.trim())}:${number.value} ${flag ?? ""}`.trim();
	}

	form.addEventListener("input", packet);
	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		try {
			const asked = new URLSearchParams({ packet: packet() });
			if (on.value) asked.set("on", on.value);
			const said = await get(`v1/services/${encodeURIComponent(service.name)}/explain?${asked}`);
			const hooks = said.bypassed?.length ? h("p", { class: "muted" }, `Rules of the router it does not pass: ${said.bypassed.join(", ")}.`) : "";
			answer.replaceChildren(
				h("p", {}, h("span", { class: "pill", data: { tone: TONES[said.where] ?? "" } }, WORDS[said.where] ?? said.where), " ", said.sentence),
				h("p", { class: "muted" }, h("code", {}, packet()), ` on ${said.interface}; reason `, h("code", {}, said.reason)), hooks,
			);
		} catch (error) {
			answer.replaceChildren(h("p", { class: "wrong" }, error.words?.() ?? String(error)));
		}
	});
	return panel("Why does a packet go where it goes?", {}, form, answer);
}

/** Packets by what was decided about them, most first. */
export function decisions() {
	const body = h("tbody");
	const node = panel(
		"Packets by decision", { class: "data" },
		h("table", { class: "bars" }, h("thead", { class: "unseen" }, h("tr", {}, ["Decision", "Share", "Packets"].map((t) => h("th", { scope: "col" }, t)))), body),
	);
	return {
		node,
		update(raw) {
			const found = Object.entries(model.status(raw).decisions ?? {}).sort((a, b) => b[1] - a[1]);
			const total = found.reduce((n, [, packets]) => n + packets, 0);
			node.hidden = !found.length;
			list(
				body, found, ([name]) => name,
				([name]) => {
					const { place, words } = model.reason(name);
					const [bar, number] = [h("span", { class: "bar", data: { place } }), h("td", { class: "number" })];
					const row = h("tr", { title: name }, h("th", { scope: "row" }, h("span", { class: `place ${place}` }, place), " ", words), h("td", { class: "wide" }, bar), number);
					return Object.assign(row, { bar, number });
				},
				(row, [, packets]) => {
					row.bar.style.setProperty("--part", `${(packets / total) * 100}%`);
					text(row.number, packets.toLocaleString("en"));
				},
			);
		},
	};
}
