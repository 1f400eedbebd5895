"""From a language model to a chat model: conversations, templates, masks, tuning, preferences, teachers' answers."""
