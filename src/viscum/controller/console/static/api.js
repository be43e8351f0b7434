// The controller's API: requests, and streams of server-sent events.
//
// EventSource can't send a header, so streams are read with fetch(). The token is kept for this tab
// and its life only (docs/decisions.md, 51).

const KEY = "viscum-token";

export const token = {
	get: () => sessionStorage.getItem(KEY) ?? "",
	set: (value) => sessionStorage.setItem(KEY, value),
	drop: () => sessionStorage.removeItem(KEY),
};

/** What the controller answered instead (RFC 9457); status 0: it can't be reached. */
export class Problem extends Error {
	constructor(status, body) {
		super(body.detail || body.title || `the controller answered ${status}`);
		this.status = status;
		this.state = body.state ?? "";
		this.hint = body.hint ?? "";
		this.problems = body.problems ?? [];
	}

	/** All of it in a few sentences. */
	words() {
		const more = this.problems.map((p) => [p.field, p.message, p.fix && `(${p.fix})`].filter(Boolean).join(" "));
		return [this.message, ...more.filter((m) => !this.message.includes(m)), this.state, this.hint]
			.filter(Boolean)
			.join(" · ");
	}
}

async function open(method, path, { body, headers, signal } = {}) {
	const own = { Accept: "application/json", ...headers };
	if (token.get()) own.Authorization = `Bearer ${token.get()}`;
	if (body !== undefined) own["Content-Type"] = "application/json";
	let answer;
	try {
		answer = await fetch(path, {
			method,
			headers: own,
			body: body === undefined ? undefined : JSON.stringify(body),
			signal,
			cache: "no-store",
			credentials: "omit",
			redirect: "error",
		});
	} catch (error) {
		if (error.name === "AbortError") throw error;
		throw new Problem(0, { detail: "the controller can't be reached" });
	}
	if (!answer.ok) {
		let said = {};
		try {
			said = await answer.json();
		} catch {
			// not one of its own answers
		}
		throw new Problem(answer.status, said);
	}
	return answer;
}

export async function request(method, path, body) {
	const answer = await open(method, path, { body });
	return answer.status === 204 ? null : answer.json();
}

export const get = (path) => request("GET", path);

/** Every item of a list that comes in pages. */
export async function all(path) {
	const items = [];
	let next = "";
	do {
		const more = path.includes("?") ? "&" : "?";
		const page = await get(next ? `${path}${more}after=${encodeURIComponent(next)}` : path);
		items.push(...page.items);
		next = page.next ?? "";
	} while (next);
	return items;
}

/** Parses one stream; calls heard({event, id, data}) for each message until it ends. */
async function read(body, heard) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = "";
	let message = { event: "message", id: "", data: [] };
	for (;;) {
		const { value, done } = await reader.read();
		if (done) return;
		const lines = (rest + value).split("\n");
		rest = lines.pop();
		for (const raw of lines) {
			const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
			if (line === "") {
				if (message.data.length) heard({ ...message, data: message.data.join("\n") });
				message = { event: "message", id: message.id, data: [] };
				continue;
			}
			const colon = line.indexOf(":");
			if (colon === 0) continue; // a comment keeps the connection alive
			const field = colon < 0 ? line : line.slice(0, colon);
			const content = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
			if (field === "data") message.data.push(content);
			else if (field === "event") message.event = content;
			else if (field === "id") message.id = content;
		}
	}
}

const FIRST = 1000; // ms until the first new attempt; doubled up to LAST
const LAST = 30000;

/** Follows a stream until close() is called; begins again when it breaks, after a pause that grows.
 *
 *  on.message(parsed, event, id), on.open(), on.lost(problem, seconds until the next attempt),
 *  on.denied(problem): the answer was 401, 403 or 404, on.end(): there was an end that was meant;
 *  after both there is no next attempt but by again().
 *  A hidden page listens to nothing: a browser has six connections for all its pages of a host.
 */
export function follow(path, on, { resume = false } = {}) {
	let control = null;
	let timer = 0;
	let pause = FIRST;
	let last = "";
	let closed = false;

	async function run() {
		clearTimeout(timer);
		control?.abort();
		const mine = (control = new AbortController());
		try {
			const headers = { Accept: "text/event-stream" };
			if (resume && last) headers["Last-Event-ID"] = last;
			const answer = await open("GET", path, { headers, signal: mine.signal });
			on.open?.();
			await read(answer.body, ({ event, id, data }) => {
				pause = FIRST;
				if (id) last = id;
				on.message(JSON.parse(data), event, id);
			});
			if (on.end) return on.end();
			throw new Problem(0, { detail: "the controller closed the connection" });
		} catch (error) {
			if (closed || mine.signal.aborted) return;
			const problem = error instanceof Problem ? error : new Problem(0, { detail: "the connection broke" });
			if (!(error instanceof Problem)) console.warn(error);
			if ([401, 403, 404].includes(problem.status)) {
				on.denied?.(problem);
				return;
			}
			const wait = pause * (0.75 + Math.random() / 2);
			pause = Math.min(pause * 2, LAST);
			on.lost?.(problem, wait / 1000);
			timer = setTimeout(run, wait);
		}
	}

	function seen() {
		if (document.hidden) {
			clearTimeout(timer);
			control?.abort();
			on.pause?.();
		} else {
			pause = FIRST;
			run();
		}
	}

	document.addEventListener("visibilitychange", seen);
	if (!document.hidden) run();
	return {
		again: run,
		close() {
			closed = true;
			clearTimeout(timer);
			control?.abort();
			document.removeEventListener("visibilitychange", seen);
		},
	};
}
