// Keeps the page's own files, so that it opens without a network. What is kept is shown at once and
// renewed behind it; requests to the server are none of its business.
const KEPT = "plates";
const FILES = ["/", "/camera.js", "/style.css", "/manifest.webmanifest", "/icon.svg"];

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(caches.open(KEPT).then((cache) => cache.addAll(FILES)));
});

addEventListener("activate", (event) => event.waitUntil(clients.claim()));

async function renew(request) {
  const answer = await fetch(request);
  if (answer.ok) await (await caches.open(KEPT)).put(request, answer.clone());
  return answer;
}

addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin || !FILES.includes(pathname)) return;
  event.respondWith(
    caches.match(request).then((kept) => {
      const fresh = renew(request);
      if (!kept) return fresh;
      event.waitUntil(fresh.catch(() => {})); // without a network what is kept will do
      return kept;
    }),
  );
});
