// Before the first paint: light, dark, or as the system has it. Not a module, so that it comes first.
{
	const KEY = "viscum-theme";
	const CHOICES = ["auto", "light", "dark"];
	const root = document.documentElement;
	const chosen = () => {
		const said = localStorage.getItem(KEY);
		return CHOICES.includes(said) ? said : "auto";
	};
	root.dataset.theme = chosen();
	window.viscumTheme = {
		chosen,
		next() {
			const now = CHOICES[(CHOICES.indexOf(chosen()) + 1) % CHOICES.length];
			localStorage.setItem(KEY, now);
			root.dataset.theme = now;
			root.dispatchEvent(new Event("theme"));
			return now;
		},
	};
	matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => root.dispatchEvent(new Event("theme")));
}
