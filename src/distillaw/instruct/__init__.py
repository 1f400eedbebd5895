"""From a language model to a chat model: conversations, templates, masks, fine-tuning, preferences, teachers' answers."""
