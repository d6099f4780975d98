"""Other wordings: synonyms, a second language, paraphrases, the target among other things, prompts of the user."""

from __future__ import annotations

from pydantic import Field

from excise.attacks.base import Arena, Attack, AttackError, AttackSettings, Round


class WordingConfig(AttackSettings):
    """Settings of other wordings."""

    way: str = Field("", description="Kind of wording, such as synonyms or paraphrases.")


class Wording(Attack[WordingConfig]):
    """Draw the known wordings of one kind in turn, with other seeds when one comes again."""

    access = "black box"
    Config = WordingConfig

    def run(self, arena: Arena) -> list[Round]:
        wordings = arena.ways.get(self.config.way)
        if not wordings:
            raise AttackError(
                f"no {self.config.way} of '{arena.concept.name}' are known; name some with --ask (prompts, one a line) "
                "or as synonyms of the concept."
            )
        return arena.draw_prompts(
            [[wordings[(i + j) % len(wordings)] for j in range(arena.images)] for i in range(len(arena.tests))]
        )
