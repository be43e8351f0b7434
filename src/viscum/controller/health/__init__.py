"""Health: servers are asked how they are, and the unhealthy take no new flows."""
