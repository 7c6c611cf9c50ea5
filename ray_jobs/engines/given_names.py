"""Given names that are nothing else in English: a capitalised one is a person, whatever the sentence.

Written by hand from names common in the United States, the United Kingdom, Ireland and among their immigrants; names
that are also words, months, towns or surnames of companies (Grace, May, Austin, Morgan) are left out on purpose: for
those a phrase or a named-entity model has to speak.
"""

GIVEN_NAMES = frozenset(
    """
    aaron abigail adam adriana adrian agnes ahmed aidan aisha alan alana albert alejandro alex alexander alexandra alexis alice alicia
    alison allison alma amanda amelia amina amir amit amy ana anastasia andre andrea andreas andrew andy angela angie anika anil anita ann anna anne annette
    annie anthony antonio arjun arthur arun ashley audrey barbara barry beatrice becky belinda ben benjamin bernadette bernard beth bethany betty beverly bianca
    bob bobby bonnie brad bradley brandon brenda brendan brian bridget bruce bryan caitlin caleb cameron camila carla carlos carmen caroline carolyn
    catherine cathy cecilia cedric celia charles charlie chloe chris christian christina christine christopher cindy claire clara claudia clive colin colleen
    connor conor craig cynthia damian damien dan dana daniel daniela danielle danny daphne darren dave david dawson deborah debbie deepak deirdre denise dennis derek
    diana diane diego dimitri dmitri dominic donald donna doreen doris dorothy doug douglas duncan dylan ebony eddie edgar edith edmund eduardo edward edwin eileen elaine
    eleanor elena elias elijah elise eliza elizabeth ella ellen ellie elliot eloise elsie emily emma enrique eric erica erik erin ernest esther ethan eugene eva evan evelyn
    fatima felicity felix fernando fiona fran frances francesca francis francisco fred freddie frederick freya gabriel gabriela gail gareth gary gavin gemma geoff geoffrey george
    gerald geraldine gerard gillian gina giovanni giulia gloria gordon graham greg gregory greta guillermo gwen gwendolyn hamish hannah harold harriet harry harvey hassan hazel heather hector
    heidi helen helena henry herbert hiroshi holly howard hugh hugo ian ibrahim ida igor imogen ingrid irene isaac isabel isabella isabelle isla ivan
    jackie jacob jacqueline jaime jake jamal james jamie jan jane janet janice jared jasmine jason javier jeff jeffrey jen jenna jennifer jenny jeremy jerome jerry jesse jessica jill
    jim jimmy jo joan joann joanna joanne jodie joe joel john johnny jon jonathan jorge jose joseph josephine josh joshua joyce juan juanita judith judy julia julian juliana julie juliet june
    justin kamal karen karim karl kate katherine kathleen kathryn kathy katie kayla keith kelly kenneth kenny kerry kevin khadija khalid kieran kim kimberly kirsten kiran krishna kristen kristin kyle lakshmi
    lamar lara larry latoya laura lauren laurence lawrence leah leo leon leonard leroy leslie leticia lewis liam lillian linda lindsay lisa liz lloyd logan lois lola loretta lorna lorraine louis louisa louise
    lucia lucas lucille lucy luis luke luna luz lydia lynn mabel maggie mahmoud malcolm malik mandy manuel marcia marco marcus margaret maria mariam marian marie marilyn mario marion marjorie marlene
    martha martin marvin mary mateo matilda matt matthew maureen maurice maya megan mehmet mei melanie melissa mia michael michaela michelle miguel mike mila mildred milo mina miranda miriam mitchell mohamed mohammed moira mona
    monica monique muhammad muriel murray nadia nancy naomi natalia natalie natasha nathan nathaniel neil nelson nicholas nick nicola nicole nigel nikhil nina noah noel nora norma norman oleg olga oliver olivia omar oscar osvaldo
    owen pablo pam pamela patricia patrick paul paula pauline pedro peggy percy peter petra phil philip phillip phoebe phyllis pierre pooja priya priyanka rachel rafael rahul raj rajesh ralph ramon randall
    raquel rashid ravi raymond rebecca reginald rene renee rhonda ricardo richard ricky rita rob robert roberta roberto robin rodney roger roland ron ronald rosa rosalind rosemary rosie ross roxanne roy rupert russell
    ruth ryan sabrina sadie sally sam samantha samir samuel sandeep sandra sandy sanjay sara sarah saskia scott sean selina serena sergio seth shane shannon sharon shaun sheila shelley sherry shirley sienna silvia simon simone
    sinead siobhan sofia sonia sonya sophia sophie stacey stan stanley stella stephanie stephen steve steven stewart stuart sunita susan susanna suzanne sven sylvia takeshi tamara tamika tanya tara tariq ted
    teresa terence terrence terry tessa thelma theo theodore theresa thomas tiffany tim timothy tina toby todd tom tomas tommy toni tony tracey tracy trevor trisha tristan tyler ursula valentina valerie vanessa vera vernon
    veronica vicky victor vijay vikram vincent vinod viola vivian vladimir walter wanda warren wayne wendy wesley wilfred will wilma xavier yasmin yolanda yuki yusuf yvette yvonne zachary zainab zara zoe
    """.split()
) - {"will", "june"}  # fmt: skip
