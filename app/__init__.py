"""The service. `app/api` speaks HTTP, `app/engine` keeps collections alive; see ARCHITECTURE.md."""
