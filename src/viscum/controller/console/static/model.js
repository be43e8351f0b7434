// A service as the API gives it, in the terms the page shows. Fields that are not there (a part of
// the controller that is off, an older version) are undefined, and what shows them is left out.

import { delay, percent, plural, span } from "./format.js";

export const status = (raw) => raw.status ?? {};
const instances = (raw) => (status(raw).generations ?? []).flatMap((g) => g.instances ?? []);

function sum(values) {
	const known = values.filter((v) => typeof v === "number");
	return known.length ? known.reduce((a, b) => a + b, 0) : undefined;
}

/** What only grows. in, out: bytes; cpu: seconds. */
export function totals(raw) {
	return {
		in: status(raw).in_bytes,
		out: status(raw).out_bytes,
		cpu: sum(instances(raw).map((i) => i.cpu)),
	};
}

export const memory = (raw) => sum(instances(raw).map((i) => i.memory));

/** Seconds within which `part` of what has come between two histograms took; undefined: nothing has.
 *  counts[n]: how many took less than 2**n microseconds and not less than 2**(n-1). */
export function quantile(before, now, part) {
	const counts = (now?.counts ?? []).map((n, i) => n - (before?.counts[i] ?? 0));
	let left = part * counts.reduce((a, b) => a + b, 0);
	if (!(left > 0)) return undefined;
	for (let n = 0; n < counts.length; n++) {
		if (counts[n] && left <= counts[n]) {
			const low = n ? 2 ** (n - 1) : 0;
			return (low + ((2 ** n - low) * left) / counts[n]) / 1e6;
		}
		left -= counts[n];
	}
	return undefined;
}

/** Addresses and prefixes; a prefix of one address is that address. */
export const targets = (raw) => (status(raw).targets ?? []).map((t) => t.replace(/(?<=\.\d+)\/32$|(?<=:.*)\/128$/, ""));

/** percent of new flows that the operator asked for */
export function asked(raw) {
	const s = status(raw);
	return s.steering === "cloud" ? 0 : s.share;
}

/** Whether a server of it listens that may take new flows. */
const serves = (raw) =>
	(status(raw).generations ?? []).some((g) => g.state !== "draining" && g.instances.some((i) => i.listens?.length));

/** percent of new flows that it gets: what was asked, and not more than it is held at */
export function share(raw) {
	const s = status(raw);
	if (s.steering !== "edge" || !serves(raw)) return 0;
	return Math.min(s.share ?? 100, held(raw)?.share ?? 100);
}

const CAUSES = {
	cpu: "this box's processors are busy",
	"cpu-pressure": "work waits for this box's processors",
	"memory-available": "this box is short of memory",
	"memory-pressure": "this box is short of memory",
	drops: "this box drops packets",
	"time-squeezes": "this box has more packets than it can take",
	throttled: "it runs into its own limit of CPU",
	"own-cpu": "it uses more CPU than its guard.cpu",
};

/** {share, why} while a controller holds it back */
export function held(raw) {
	const h = status(raw).held;
	if (!h) return undefined;
	const [load, health] = [h.load ?? 100, h.health ?? 100];
	const most = Math.min(load, health);
	if (most >= 100) return undefined;
	return { share: most, why: health < load ? "health" : "load" };
}

const TONES = {
	running: "good",
	"not listening": "warn",
	dead: "bad",
	stopped: "",
	draining: "warn",
	removing: "warn",
};
export const tone = (raw) => TONES[status(raw).state] ?? "";

/** {word, tone, why} of the health probe; undefined: it has none */
export function health({ health: said }) {
	if (!said || said.state === "none") return undefined;
	const tones = { healthy: "good", unhealthy: "bad" };
	return { word: said.state, tone: tones[said.state] ?? "", why: said.last_error || (said.latency ? `answers in ${delay(said.latency)}` : "") };
}

/** "40 %, held by load" as the column says it */
export function steering(raw) {
	const s = status(raw);
	const back = typeof s.turns_back_in === "number" ? ` for ${span(s.turns_back_in)}` : "";
	if (s.steering !== "edge") return `off${back}`;
	if (!serves(raw)) return "none";
	const hold = held(raw);
	if (hold && hold.share < (s.share ?? 100)) return `${percent(share(raw))}, held: ${hold.why}`;
	return percent(s.share) + back;
}

const NOT_SERVING = {
	dead: "Its server does not run: everything goes to the cloud.",
	"not listening": "Its server runs but does not listen yet: new flows go to the cloud.",
	stopped: "It is stopped: everything goes to the cloud.",
	draining: "It is being stopped: new flows go to the cloud.",
	removing: "It is being taken away: new flows go to the cloud.",
};

/** "one flow stays", "3 flows stay" */
export const staying = (n) => `${plural(n, "open flow")} ${n === 1 ? "stays at the edge until it ends" : "stay at the edge until they end"}.`;

/** What happens to clients now, in sentences for a person. */
export function inWords(raw) {
	const s = status(raw);
	const hold = held(raw);
	const said = [];
	if (!serves(raw)) said.push(NOT_SERVING[s.state] ?? "New flows go to the cloud.");
	else if (s.steering !== "edge") said.push("It is disabled: new flows go to the cloud.");
	else if (hold && hold.share < s.share) {
		const because = hold.why === "health" ? "its health probe fails" : (CAUSES[raw.load?.cause] ?? "this box is short");
		const instead = s.share < 100 ? ` instead of ${s.share} %` : "";
		said.push(hold.share ? `${percent(hold.share)}${instead} of new flows go to the edge, since ${because}.` : `New flows go to the cloud, since ${because}.`);
	} else if (s.share < 100) {
		const flow = raw.spec?.steer?.["share-by"] === "flow";
		said.push(flow ? `${s.share} % of new flows go to the edge.` : `New flows of ${s.share} % of clients go to the edge.`);
	} else said.push("New flows go to the edge.");
	if (typeof s.turns_back_in === "number") said.push(`This turns back by itself in ${span(s.turns_back_in)}.`);
	if (s.flows && !share(raw) && s.state !== "dead") said.push(staying(s.flows));
	return said.join(" ");
}

// The data path's reasons, shorter than `explain` says them.
const REASONS = {
	"edge-established": "packet of an open connection",
	"edge-request": "packet of a half-open connection",
	"edge-time-wait": "connection in TIME_WAIT",
	"edge-cookie": "ACK of a SYN cookie",
	"edge-syn": "new connection",
	"edge-udp-new": "new UDP flow",
	"edge-udp": "datagram of a known flow",
	"edge-udp-connected": "datagram for a connected socket",
	"edge-icmp": "ICMP error of a flow",
	"edge-ping": "echo request",
	"edge-fragment": "later fragment",
	client: "not one of its clients",
	iface: "not one of its interfaces",
	"cloud-no-socket": "flow of the cloud",
	"cloud-no-listener": "nothing listens there",
	"cloud-disabled": "disabled",
	"cloud-share": "not within the share",
	"cloud-held": "held back by the controller",
	"cloud-syn-again": "repeated SYN of a cloud flow",
	"cloud-away": "newer connection of the cloud",
	"cloud-hung": "server did not answer the SYN",
	"cloud-join": "Multipath TCP of the cloud",
	"cloud-udp": "UDP flow of the cloud",
	"cloud-udp-arming": "older UDP flow, perhaps",
	"cloud-udp-no-socket": "no UDP socket there",
	"cloud-udp-not-initial": "not a QUIC Initial",
	"cloud-udp-full": "table of UDP flows is full",
	"cloud-icmp": "ICMP of no flow",
	"cloud-ping": "echo request",
	"cloud-fragment": "later fragment of the cloud",
	"cloud-dead": "namespace or link is gone",
	"cloud-other": "another protocol",
	"drop-down": "the service is down",
	return: "reply, straight to the client",
	"return-stack": "reply, through the router's stack",
	"return-source": "reply with the target put back",
	"own-in": "to the server's own flows",
	"own-out": "of the server's own flows",
};

/** {place, words} of a decision */
export function reason(name) {
	const place = { edge: "edge", return: "edge", own: "edge", drop: "dropped" }[name.split("-")[0]] ?? "cloud";
	return { place, words: REASONS[name] ?? name };
}
