/** One thread of the pool of a page. */
import { Desk } from "./desk.js";
import { serve } from "./serve.js";

serve(new Desk().answers);
