"""The capacity gap in its simplest form: kernel regression in closed form, and MLPs on a mapping task."""
