"""What people keep as files and edit by hand: presets/*.yaml, tools/*.js and mcp-servers.json."""
