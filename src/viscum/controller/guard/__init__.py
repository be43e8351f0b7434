"""The load guard: services give way before the router suffers."""
