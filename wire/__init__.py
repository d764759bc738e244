"""What crosses between rooms: errors, HTTP, authentication, settings. Imports nothing of ours."""
