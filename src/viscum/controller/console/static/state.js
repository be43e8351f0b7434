// What the controller said last, and the last minutes of it. Rates are differences of two snapshots;
// a gap (the page was hidden, the controller away) stays a gap.

import * as service from "./model.js";

const KEPT = 600; // snapshots: ten minutes
const GAP = 5; // seconds without a snapshot after which a line is broken

const RECENT = 30; // seconds whose handshakes the latency is of

const SERIES = ["in", "out", "flows", "share", "asked", "p50", "p99", "rtt", "cpu", "memory"];

/** The last KEPT points of every series, as uPlot wants them: columns. */
class History {
	constructor() {
		this.at = [];
		for (const name of SERIES) this[name] = [];
	}

	add(at, values) {
		const last = this.at.at(-1);
		if (last !== undefined && at - last > GAP) this.push(last + 1, {});
		this.push(at, values);
	}

	push(at, values) {
		this.at.push(at);
		for (const name of SERIES) this[name].push(values[name] ?? null);
		if (this.at.length > KEPT) {
			this.at.shift();
			for (const name of SERIES) this[name].shift();
		}
	}
}

class Service {
	constructor(name) {
		this.name = name;
		this.history = new History();
		this.rates = {};
		this.latency = {};
		this.before = null;
		this.timed = [];
	}

	take(raw, at) {
		const now = { at, ...service.totals(raw) };
		const old = this.before;
		this.raw = raw;
		this.rates = {};
		if (old && at > old.at && at - old.at < GAP) {
			for (const [key, value] of Object.entries(now)) {
				const grown = value - old[key];
				// a smaller total: counted anew
				if (key !== "at" && Number.isFinite(grown) && grown >= 0) this.rates[key] = grown / (at - old.at);
			}
		}
		if (!old || at > old.at) this.before = now;
		this.time(raw, at);
		this.history.add(at, {
			...this.rates,
			...this.latency,
			memory: service.memory(raw),
			flows: service.status(raw).flows,
			share: service.share(raw),
			asked: service.asked(raw),
		});
	}

	/** p50, p99: how long SYNs waited for their SYN-ACK; rtt: median round trip to the clients. */
	time(raw, at) {
		const { connect, rtt } = service.status(raw);
		this.timed.push({ at, connect, rtt });
		while (this.timed.length > 2 && at - this.timed[1].at >= RECENT) this.timed.shift();
		const before = this.timed[0];
		this.latency = {
			p50: service.quantile(before.connect, connect, 0.5),
			p99: service.quantile(before.connect, connect, 0.99),
			rtt: service.quantile(before.rtt, rtt, 0.5),
		};
	}
}

export const state = {
	services: new Map(),
	host: null,
	me: null,
	at: 0, // the controller's clock, seconds since 1970
	heard: 0, // performance.now() when it came, ms
	connection: "wait", // wait, live, lost, denied
	connected: 0, // how often
	events: [],
};

const listeners = new Set();

/** Calls fn after every change until the returned function is called. */
export function onChange(fn) {
	listeners.add(fn);
	return () => listeners.delete(fn);
}

export function changed() {
	for (const fn of [...listeners]) fn();
}

/** Seconds since the last word of the controller. */
export const age = () => (state.heard ? (performance.now() - state.heard) / 1000 : Infinity);

/** One snapshot of everything this page's user may see. */
export function take(snapshot) {
	state.at = snapshot.at ?? Date.now() / 1000;
	state.heard = performance.now();
	state.load = snapshot.host?.load;
	const items = snapshot.services ?? [];
	const there = new Set(items.map((raw) => raw.name));
	for (const name of state.services.keys()) if (!there.has(name)) state.services.delete(name);
	for (const raw of items) {
		if (!state.services.has(raw.name)) state.services.set(raw.name, new Service(raw.name));
		state.services.get(raw.name).take(raw, state.at);
	}
	changed();
}

const EVENTS = 500;

/** Newest first; one that is known already is not taken twice. */
export function takeEvents(events) {
	const known = new Set(state.events.map((event) => event.id));
	const fresh = events.filter((event) => !known.has(event.id));
	if (!fresh.length) return;
	state.events = [...fresh, ...state.events].sort((a, b) => b.id - a.id).slice(0, EVENTS);
	changed();
}
