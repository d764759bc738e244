"""The top floor: one tool for one node and for many. It puts the rooms together; nobody imports it."""
