from __future__ import annotations

import pytest

from asrkit.corpora.malach import normalize_malach

MALACH: list[tuple[str, str]] = [
    ("I WAS BORN IN LODZ POLAND", "i was born in lodz poland"),
    ("MY MOTHER'S NAME WAS ROSA", "my mother's name was rosa"),
    ("MY PARENTS' HOUSE", "my parents' house"),
    ("'CAUSE WE DIDN'T HAVE ANYTHING", "'cause we didn't have anything"),
    ("I'D'VE GONE TO PALESTINE", "i'd've gone to palestine"),
    ("THE JUDENRAT'S POLICE", "the judenrat's police"),
    ("AUSCHWITZ-BIRKENAU", "auschwitz-birkenau"),
    ("TWENTY-FIVE YEARS LATER", "twenty-five years later"),
    ("AT FIVE O'CLOCK IN THE MORNING", "at five o'clock in the morning"),
    ("FROM ŁÓDŹ TO KRAKÓW", "from łódź to kraków"),
    ("UH-HUH", "uh-huh"),
    ("MHM MHM", "mhm mhm"),
    ("UM ABOUT UM SIXTY PEOPLE", "um about um sixty people"),
    ("%UH I DON'T REMEMBER", "uh i don't remember"),
    ("%UM THE %UH GHETTO", "um the uh ghetto"),
    ("%HESITATION MAYBE FORTY-TWO", "maybe forty-two"),
    ("AND THEN <UNK> THEY TOOK US", "and then they took us"),
    ("<UNK>", ""),
    ("<noise> YES", "yes"),
    ("<breath> <breath>", ""),
    ("I WAS <cough> SICK", "i was sick"),
    ("[NOISE] WE HAD A STORE", "we had a store"),
    ("SO [UNCLEAR] SHE SAID", "so she said"),
    ("[PAUSE] [CRYING]", ""),
    ("{LAUGH} NO NO", "no no"),
    ("{breath} I [noise] I LIVED <cough> THERE", "i i lived there"),
    ("(( )) IN AUSCHWITZ", "in auschwitz"),
    ("<foreign> ARBEIT MACHT FREI </foreign>", "arbeit macht frei"),
    ("THE <lg=Yiddish> TSORES <lg> WE HAD", "the tsores we had"),
    ("WE W- WE WENT TO KRA- KRAKOW", "we w- we went to kra- krakow"),
    ("THE N- THE NAZIS CAME IN", "the n- the nazis came in"),
    ("THE DEPOR- -TATION", "the depor- -tation"),
    ("IT WAS NINETEEN THIRTY-NINE.", "it was nineteen thirty-nine"),
    ("YES, SIR.", "yes sir"),
    ("WHERE WERE YOU?", "where were you"),
    ("YOU KNOW; IT WAS: TERRIBLE!", "you know it was terrible"),
    ("THREE, FOUR HUNDRED PEOPLE", "three four hundred people"),
    ('"RAUS RAUS" THEY SAID', "raus raus they said"),
    ("MR. AND MRS. KLEIN", "mr and mrs klein"),
    ("WELL ... I THINK", "well i think"),
    ("-- AND THEN --", "and then"),
    ("I -- I CAN'T", "i i can't"),
    ("- WE WALKED -", "we walked"),
    ("THE S. S. CAME AT NIGHT", "the s s came at night"),
    ("THE S.S. CAME", "the s s came"),
    ("THE U.S. ARMY LIBERATED US", "the u s army liberated us"),
    ("A D. P. CAMP", "a d p camp"),
    ("THE D.P.'S PAPERS", "the d p's papers"),
]


@pytest.mark.parametrize(("text", "expected"), MALACH)
def test_malach(text: str, expected: str) -> None:
    assert normalize_malach(text) == expected
