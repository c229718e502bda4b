"""The toolkit of every page: figures, cards, tables, HTML that needs no network."""

from erclip.extras import stand_on

stand_on("train", "erclip.pages")
