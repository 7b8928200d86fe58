"""Small PDDL problems in the form of the ALFRED domain, for the tests of ALFWorld: one kitchen, six goals.

The kitchen has what official games have and generated households have not: coordinates in identifiers, two drawers
that share a place, an object listed in two receptacles, things in no receptacle, a receptacle that cannot be reached, a
table of what fits that is not ours, an apple that is cold from the start, and a knife with something to slice.
"""

from __future__ import annotations

KITCHEN_OBJECTS = """
    agent1 - agent
    Apple - object
    Mug - object
    AppleType - otype
    MugType - otype
    KnifeType - otype
    ButterKnifeType - otype
    DeskLampType - otype
    WindowType - otype
    SinkBasinType - rtype
    SinkType - rtype
    MicrowaveType - rtype
    FridgeType - rtype
    CounterTopType - rtype
    DrawerType - rtype
    SideTableType - rtype
    SafeType - rtype
    Apple_bar__minus_01_dot_20_bar__plus_00_dot_95 - object
    Apple_bar__plus_02_dot_04_bar__plus_00_dot_90 - object
    Apple_bar__plus_02_dot_73_bar__minus_00_dot_18 - object
    Mug_bar__plus_02_dot_11_bar__plus_00_dot_35 - object
    Mug_bar__minus_02_dot_58_bar__plus_00_dot_68 - object
    Knife_bar__plus_00_dot_10_bar__plus_00_dot_93 - object
    DeskLamp_bar__plus_01_dot_50_bar__plus_00_dot_70 - object
    Window_bar__plus_02_dot_96_bar__plus_01_dot_51 - object
    Sink_bar__plus_00_dot_31_bar__plus_00_dot_90_bar_SinkBasin - receptacle
    Microwave_bar__minus_01_dot_00_bar__plus_01_dot_10 - receptacle
    Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00 - receptacle
    CounterTop_bar__plus_00_dot_00_bar__plus_00_dot_95 - receptacle
    CounterTop_bar__plus_01_dot_80_bar__plus_00_dot_95 - receptacle
    Drawer_bar__minus_02_dot_42_bar__plus_00_dot_17 - receptacle
    Drawer_bar__minus_02_dot_42_bar__plus_00_dot_46 - receptacle
    SideTable_bar__plus_01_dot_50_bar__plus_00_dot_60 - receptacle
    Safe_bar__plus_09_dot_00_bar__plus_00_dot_60 - receptacle
    loc_bar_0_bar__minus_8_bar_3_bar_45 - location
    loc_bar_7_bar_6_bar_1_bar_45 - location
    loc_bar__minus_4_bar__minus_12_bar_3_bar_45 - location
    loc_bar_5_bar_0_bar_1_bar_60 - location
    loc_bar_2_bar_6_bar_0_bar_30 - location
    loc_bar_9_bar_5_bar_1_bar_60 - location
    loc_bar_1_bar_1_bar_1_bar_30 - location
"""

KITCHEN_FACTS = """
    (receptacleType Sink_bar__plus_00_dot_31_bar__plus_00_dot_90_bar_SinkBasin SinkBasinType)
    (receptacleType Microwave_bar__minus_01_dot_00_bar__plus_01_dot_10 MicrowaveType)
    (receptacleType Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00 FridgeType)
    (receptacleType CounterTop_bar__plus_00_dot_00_bar__plus_00_dot_95 CounterTopType)
    (receptacleType CounterTop_bar__plus_01_dot_80_bar__plus_00_dot_95 CounterTopType)
    (receptacleType Drawer_bar__minus_02_dot_42_bar__plus_00_dot_17 DrawerType)
    (receptacleType Drawer_bar__minus_02_dot_42_bar__plus_00_dot_46 DrawerType)
    (receptacleType SideTable_bar__plus_01_dot_50_bar__plus_00_dot_60 SideTableType)
    (receptacleType Safe_bar__plus_09_dot_00_bar__plus_00_dot_60 SafeType)
    (objectType Apple_bar__minus_01_dot_20_bar__plus_00_dot_95 AppleType)
    (objectType Apple_bar__plus_02_dot_04_bar__plus_00_dot_90 AppleType)
    (objectType Apple_bar__plus_02_dot_73_bar__minus_00_dot_18 AppleType)
    (objectType Mug_bar__plus_02_dot_11_bar__plus_00_dot_35 MugType)
    (objectType Mug_bar__minus_02_dot_58_bar__plus_00_dot_68 MugType)
    (objectType Knife_bar__plus_00_dot_10_bar__plus_00_dot_93 KnifeType)
    (objectType DeskLamp_bar__plus_01_dot_50_bar__plus_00_dot_70 DeskLampType)
    (objectType Window_bar__plus_02_dot_96_bar__plus_01_dot_51 WindowType)
    (canContain SinkBasinType AppleType) (canContain SinkBasinType MugType) (canContain SinkBasinType AppleType)
    (canContain MicrowaveType AppleType) (canContain MicrowaveType MugType)
    (canContain FridgeType AppleType) (canContain FridgeType MugType)
    (canContain CounterTopType AppleType) (canContain CounterTopType KnifeType)
    (canContain SideTableType MugType) (canContain SideTableType AppleType)
    (canContain DrawerType KnifeType)
    (openable Microwave_bar__minus_01_dot_00_bar__plus_01_dot_10)
    (openable Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00)
    (openable Drawer_bar__minus_02_dot_42_bar__plus_00_dot_17)
    (openable Drawer_bar__minus_02_dot_42_bar__plus_00_dot_46)
    (openable Safe_bar__plus_09_dot_00_bar__plus_00_dot_60)
    (opened Drawer_bar__minus_02_dot_42_bar__plus_00_dot_46)
    (atLocation agent1 loc_bar_1_bar_1_bar_1_bar_30)
    (pickupable Apple_bar__minus_01_dot_20_bar__plus_00_dot_95)
    (pickupable Apple_bar__plus_02_dot_04_bar__plus_00_dot_90)
    (pickupable Apple_bar__plus_02_dot_73_bar__minus_00_dot_18) (pickupable Mug_bar__plus_02_dot_11_bar__plus_00_dot_35)
    (pickupable Mug_bar__minus_02_dot_58_bar__plus_00_dot_68) (pickupable Knife_bar__plus_00_dot_10_bar__plus_00_dot_93)
    (isReceptacleObject Mug_bar__plus_02_dot_11_bar__plus_00_dot_35)
    (heatable Apple_bar__minus_01_dot_20_bar__plus_00_dot_95) (heatable Apple_bar__plus_02_dot_04_bar__plus_00_dot_90)
    (heatable Apple_bar__plus_02_dot_73_bar__minus_00_dot_18)
    (coolable Apple_bar__minus_01_dot_20_bar__plus_00_dot_95) (coolable Apple_bar__plus_02_dot_04_bar__plus_00_dot_90)
    (coolable Apple_bar__plus_02_dot_73_bar__minus_00_dot_18) (isCool Apple_bar__plus_02_dot_04_bar__plus_00_dot_90)
    (cleanable Apple_bar__minus_01_dot_20_bar__plus_00_dot_95) (cleanable Mug_bar__plus_02_dot_11_bar__plus_00_dot_35)
    (cleanable Mug_bar__minus_02_dot_58_bar__plus_00_dot_68)
    (sliceable Apple_bar__minus_01_dot_20_bar__plus_00_dot_95) (sliceable Apple_bar__plus_02_dot_04_bar__plus_00_dot_90)
    (toggleable DeskLamp_bar__plus_01_dot_50_bar__plus_00_dot_70)
    (inReceptacle Apple_bar__minus_01_dot_20_bar__plus_00_dot_95 CounterTop_bar__plus_01_dot_80_bar__plus_00_dot_95)
    (inReceptacle Apple_bar__plus_02_dot_04_bar__plus_00_dot_90 Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00)
    (inReceptacle Apple_bar__plus_02_dot_73_bar__minus_00_dot_18 Safe_bar__plus_09_dot_00_bar__plus_00_dot_60)
    (inReceptacle Mug_bar__plus_02_dot_11_bar__plus_00_dot_35 Drawer_bar__minus_02_dot_42_bar__plus_00_dot_17)
    (inReceptacle Mug_bar__minus_02_dot_58_bar__plus_00_dot_68 Microwave_bar__minus_01_dot_00_bar__plus_01_dot_10)
    (inReceptacle Knife_bar__plus_00_dot_10_bar__plus_00_dot_93 CounterTop_bar__plus_00_dot_00_bar__plus_00_dot_95)
    (inReceptacle Knife_bar__plus_00_dot_10_bar__plus_00_dot_93 Drawer_bar__minus_02_dot_42_bar__plus_00_dot_46)
    (inReceptacle DeskLamp_bar__plus_01_dot_50_bar__plus_00_dot_70 SideTable_bar__plus_01_dot_50_bar__plus_00_dot_60)
    (wasInReceptacle Apple_bar__plus_02_dot_04_bar__plus_00_dot_90 Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00)
    (receptacleAtLocation
        Sink_bar__plus_00_dot_31_bar__plus_00_dot_90_bar_SinkBasin loc_bar_0_bar__minus_8_bar_3_bar_45)
    (receptacleAtLocation CounterTop_bar__plus_00_dot_00_bar__plus_00_dot_95 loc_bar_0_bar__minus_8_bar_3_bar_45)
    (receptacleAtLocation Microwave_bar__minus_01_dot_00_bar__plus_01_dot_10 loc_bar_7_bar_6_bar_1_bar_45)
    (receptacleAtLocation Fridge_bar__plus_03_dot_00_bar__plus_00_dot_00 loc_bar__minus_4_bar__minus_12_bar_3_bar_45)
    (receptacleAtLocation CounterTop_bar__plus_01_dot_80_bar__plus_00_dot_95 loc_bar_5_bar_0_bar_1_bar_60)
    (receptacleAtLocation Drawer_bar__minus_02_dot_42_bar__plus_00_dot_17 loc_bar_2_bar_6_bar_0_bar_30)
    (receptacleAtLocation Drawer_bar__minus_02_dot_42_bar__plus_00_dot_46 loc_bar_2_bar_6_bar_0_bar_30)
    (receptacleAtLocation SideTable_bar__plus_01_dot_50_bar__plus_00_dot_60 loc_bar_9_bar_5_bar_1_bar_60)
    (objectAtLocation Apple_bar__minus_01_dot_20_bar__plus_00_dot_95 loc_bar_5_bar_0_bar_1_bar_60)
    (objectAtLocation Apple_bar__plus_02_dot_04_bar__plus_00_dot_90 loc_bar__minus_4_bar__minus_12_bar_3_bar_45)
    (objectAtLocation Mug_bar__plus_02_dot_11_bar__plus_00_dot_35 loc_bar_2_bar_6_bar_0_bar_30)
    (objectAtLocation Window_bar__plus_02_dot_96_bar__plus_01_dot_51 loc_bar_1_bar_1_bar_1_bar_30)
"""

GOALS = {
    "pick": """(and (exists (?r - receptacle) (exists (?o - object)
        (and (inReceptacle ?o ?r) (objectType ?o AppleType) (receptacleType ?r SideTableType)))))""",
    "clean": """(and (exists (?r - receptacle) (exists (?o - object)
        (and (cleanable ?o) (objectType ?o MugType) (receptacleType ?r SideTableType) (isClean ?o)
             (inReceptacle ?o ?r)))))""",
    "heat": """(and (exists (?r - receptacle) (exists (?o - object)
        (and (heatable ?o) (objectType ?o AppleType) (receptacleType ?r FridgeType) (isHot ?o)
             (inReceptacle ?o ?r)))))""",
    "cool": """(and (exists (?r - receptacle ?o - object)
        (and (coolable ?o) (objectType ?o AppleType) (receptacleType ?r CounterTopType) (isCool ?o)
             (inReceptacle ?o ?r))))""",
    "pick2": """(and (exists (?r - receptacle) (exists (?o1 - object)
        (and (objectType ?o1 MugType) (receptacleType ?r FridgeType) (inReceptacle ?o1 ?r)
             (exists (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 MugType) (receptacleType ?r FridgeType)
                                         (inReceptacle ?o2 ?r)))))))""",
    "look": """(and (exists (?ot - object ?r - receptacle ?a - agent ?l - location)
             (and (objectType ?ot DeskLampType) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l)
                  (atLocation ?a ?l) (inReceptacle ?ot ?r)))
        (exists (?o - object ?a - agent) (and (objectType ?o MugType) (holds ?a ?o))))""",
}


def problem(objects: str, facts: str, goal: str) -> str:
    """A whole problem, whose :objects begin on line 3."""
    return f"""(define (problem plan_trial_T1) ; a comment (with a bracket
(:domain alfred)
(:objects{objects})
(:init{facts})
(:goal {goal}))
"""


def kitchen(kind: str = "heat") -> str:
    """The kitchen with the goal of a kind."""
    return problem(KITCHEN_OBJECTS, KITCHEN_FACTS, GOALS[kind])


PLAIN_OBJECTS = """
    agent1 - agent
    red_apple_1 - object
    desk_lamp_1 - object
    fridge_1 kitchen_table_1 - receptacle
    AppleType LampType - otype
    FridgeType TableType - rtype
    place_1 place_2 hall - location
"""

PLAIN_FACTS = """
    (atLocation agent1 hall)
    (receptacleAtLocation fridge_1 place_1) (receptacleAtLocation kitchen_table_1 place_2)
    (receptacleType fridge_1 FridgeType) (receptacleType kitchen_table_1 TableType) (openable fridge_1)
    (objectType red_apple_1 AppleType) (objectType desk_lamp_1 LampType)
    (pickupable red_apple_1) (toggleable desk_lamp_1)
    (canContain FridgeType AppleType) (canContain TableType AppleType)
    (inReceptacle red_apple_1 fridge_1) (inReceptacle desk_lamp_1 kitchen_table_1)
"""


def plain() -> str:
    """A problem whose identifiers have no `_bar_`."""
    goal = GOALS["pick"].replace("SideTableType", "TableType")
    return problem(PLAIN_OBJECTS, PLAIN_FACTS, goal)
