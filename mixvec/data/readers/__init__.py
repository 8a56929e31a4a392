"""One function for each form that speech is kept in; each yields rows, and none decodes or copies any audio."""
