"""NIST's rules for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

RULES = """\
;; Rules for tests
* name "test.glm"
* format = 'NIST1'
* max_nrules = '2500'
* copy_no_hit = 'T'
* case_sensitive = 'F'
UH          => %HESITATION / [ ] __ [ ] ;; a hesitation
UM          => %HESITATION / [ ] __ [ ]
MM-HM       => %BCACK      / [ ] __ [ ] ;; yes
'CAUSE      => BECAUSE
GONNA       => GOING TO
OKAY        => O. K. / [ ] __ [ ]
ADVISER     => ADVISOR / [ ] __
FALKNER     => FAULKNER / [WILLIAM ] __
GOOD BY     => GOOD BYE
[ICE CREAM] => "ICECREAM" / [ ] __ [ ]
;; INPUT_DEPENDENT_APPLICATION = "ctm"
[HE'S]      => [{HE IS / HE HAS}] / [ ] __ [ ]
[FIRM'S]    => [{FIRM'S / FIRM IS / FIRM HAS}] / [ ] __ [ ]
;; INPUT_DEPENDENT_APPLICATION = "ref"
[IT'S]      => [{IT IS / IT'S / @}] / [ ] __ [ ]
;; INPUT_DEPENDENT_APPLICATION = ".*"
[TV]        => [T. V.] / [ ] __ [ ]
"""


@pytest.fixture(scope="session")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of rules."""
    path = tmp_path_factory.mktemp("glm") / "test.glm"
    path.write_text(RULES)
    return path
