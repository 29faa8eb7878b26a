"""Commands about single jobs.

change     `stockpot cancel` and `stockpot retry`: what may be asked of a job that exists
failures   `stockpot failures`: what failed, by why, with a sample and the command that retries it
following  A job followed to its end
listing    `stockpot list`: jobs, newest first
show       `stockpot show`: one job with all that came of it
submit     `stockpot submit`: one request from the command line, a file or stdin
watch      `stockpot watch`: a job's live events, from any point, to the terminal one
"""
